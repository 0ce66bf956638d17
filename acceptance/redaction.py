"""Removes from a report what identifies accounts, people, machines and credentials. Pure."""

from __future__ import annotations

import ipaddress
import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

REDACTED = "REDACTED"
_SERVICE = re.compile(r"[a-z0-9.-]+\.amazonaws\.com(?:\.cn)?|AWS Internal")
_PERSONAL_KEYS = (
    "accessKeyId|arnOfCaller|clientToken|password|principalId|secretAccessKey|sessionName|sessionToken|"
    "sourceIPAddress|sourceIdentity|userAgent|userName|vpcEndpointId|vpcEndpointAccountId"
)
_IS_PERSONAL = re.compile(rf"(?:{_PERSONAL_KEYS})", re.IGNORECASE)
_IDENTITY = "useridentity"
# The first letters of the ids of access keys and of IAM's entities. The name of a session can follow.
_ID_KINDS = "AKIA|ASIA|AROA|AIDA|AGPA|AIPA|ANPA|ANVA|ASCA|ABIA|ACCA|ABSK|APKA"
_ACCOUNT = re.compile(r"(?<!\d)\d{12}(?!\d)")
_ACCOUNTS = ("111122223333", "444455556666", "777788889999")
# An ARN of IAM or STS: the kind of its resource, and the rest, which ends before another ARN of a list.
_ARN = re.compile(
    r"(?P<head>arn:[a-z-]+:(?:iam|sts)::\d*:)"
    r"(?P<kind>assumed-role|federated-user|user|role|group|mfa|instance-profile|saml-provider)/"
    r"(?P<rest>(?:(?!,\s*arn:)[\w+=,.@/~%|:#!$&*-])+)"
)
_IP_V4 = re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.]*\d)")
_IP_V6 = re.compile(r"(?<!\w)[0-9A-Fa-f:]*:[0-9A-Fa-f:]*:[0-9A-Fa-f:]*(?!\w)")
_MIN_LITERAL = 4  # characters; a shorter text is part of too many words


def _secret(match: re.Match[str]) -> str:
    """Redact what has the form of a secret key; a hash of forty hexadecimal digits is none."""
    text = match[0]
    mixed = all(any(test(each) for each in text) for test in (str.isupper, str.islower, str.isdigit))
    return REDACTED if mixed else text


def _ip_v6(match: re.Match[str]) -> str:
    run = match[0]
    for address in (
        run,
        run.removeprefix(":"),
        run.removesuffix(":"),
        run.removeprefix(":").removesuffix(":"),
    ):
        try:
            ipaddress.IPv6Address(address)
        except ValueError:
            continue
        return run.replace(address, "IP_ADDRESS") if address.strip(":") else run
    return run


# In this order: an ARN holds names, and a name can look like an address.
_RULES: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (
        re.compile(rf"""(["'](?:{_PERSONAL_KEYS})\\*["']\s*:\s*\\*["'])(?:(?!\\*["']).)*""", re.IGNORECASE),
        rf"\1{REDACTED}",
    ),
    (re.compile(r"(X-Amz-[\w-]+=)[^&\s\"'<>]+"), rf"\1{REDACTED}"),
    (re.compile(rf"\b({_ID_KINDS})[A-Z0-9]{{8,}}(?::[^\s\"'\\,)\]}}]+)?"), r"\1EXAMPLE"),
    (re.compile(r"[A-Za-z0-9/+]{100,}={0,2}"), REDACTED),
    (re.compile(r"(?<![A-Za-z0-9/+=])[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+=])"), _secret),
    (re.compile(r"[\w.+%-]+@[\w-]+(?:\.[\w-]+)+"), "EMAIL"),
    (re.compile(r"(/(?:home|Users)/)[^/\s\"']+"), r"\1USER"),
    (_IP_V4, "IP_ADDRESS"),
    (_IP_V6, _ip_v6),
)  # fmt: skip


class Redactor:
    """Redacts values, with one replacement for each account."""

    def __init__(self, prefix: str, account: str = "", personal: Iterable[str] = ()) -> None:
        """Start with what is known.

        Args:
            prefix: the prefix of the run: names that start with it are kept.
            account: the account that becomes the first example account.
            personal: texts that identify the caller, such as the name of its role.
        """
        self._prefix = prefix
        long = {text for text in personal if len(text) >= _MIN_LITERAL and text not in prefix}
        self._personal = sorted(long, key=len, reverse=True)
        self._accounts: dict[str, str] = {}
        if account:
            self._replacement(account)

    def redact(self, value: Any) -> Any:  # noqa: ANN401 - JSON
        """Return a JSON value without what identifies anyone, also in JSON within its texts."""
        match value:
            case dict():
                return {self._text(str(key)): self._field(str(key), each) for key, each in value.items()}
            case list() | tuple():
                return [self.redact(each) for each in value]
            case str():
                return self._maybe_json(value)
            case int() if not isinstance(value, bool) and _ACCOUNT.fullmatch(str(value)):
                return int(self._replacement(str(value)))
        return value

    def _field(self, key: str, value: Any) -> Any:  # noqa: ANN401 - JSON
        if key.lower() == _IDENTITY:
            return self._identity(value)
        if isinstance(value, str) and _IS_PERSONAL.fullmatch(key):
            return value if _SERVICE.fullmatch(value) else REDACTED
        return self.redact(value)

    def _identity(self, value: Any, key: str = "") -> Any:  # noqa: ANN401 - JSON
        """Keep the structure and the types of an identity, and what names a service or the run."""
        match value:
            case dict():
                fields: Mapping[str, Any] = value
                return {self._text(name): self._identity(each, name) for name, each in fields.items()}
            case list():
                return [self._identity(each, key) for each in value]
            case str() if key == "type" or _SERVICE.fullmatch(value):
                return self._text(value)
            case str() if key in {"arn", "accountId"}:
                return self._text(value)
            case bool() | None:
                return value
        return REDACTED

    def _maybe_json(self, text: str) -> str:
        if text.lstrip().startswith(("{", "[")):
            try:
                return json.dumps(self.redact(json.loads(text)))
            except json.JSONDecodeError:
                pass
        return self._text(text)

    def _text(self, text: str) -> str:
        text = _ARN.sub(self._arn, text)
        for pattern, replacement in _RULES:
            text = pattern.sub(replacement, text)
        for personal in self._personal:
            text = text.replace(personal, REDACTED)
        return _ACCOUNT.sub(lambda match: self._replacement(match[0]), text)

    def _arn(self, match: re.Match[str]) -> str:
        head, kind, rest = match["head"], match["kind"], match["rest"]
        name, _, session = rest.partition("/")
        if kind == "assumed-role":
            role = name if name.startswith(self._prefix) else "CALLER"
            return f"{head}{kind}/{role}/{session if session.startswith(self._prefix) else 'SESSION'}"
        kept = rest.rsplit("/", 1)[-1].startswith(self._prefix)
        return f"{head}{kind}/{rest if kept else 'CALLER'}"

    def _replacement(self, account: str) -> str:
        if account not in self._accounts:
            used = len(self._accounts)
            more = f"{used:012d}"
            self._accounts[account] = _ACCOUNTS[used] if used < len(_ACCOUNTS) else more
        return self._accounts[account]
