"""The address of an image in ECR: its parts, and what people enter instead. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from handler.policy.scope import is_repository_name

EXAMPLE_IMAGE = "111122223333.dkr.ecr.us-east-1.amazonaws.com/team/app:v1"
_HOST = re.compile(
    r"(?P<account>[0-9]{12})\.dkr(?:\.ecr|-ecr)(?P<fips>-fips)?\.(?P<region>[a-z0-9-]+)\."
    r"(?P<domain>amazonaws\.com(?:\.cn)?|on\.aws|on\.amazonwebservices\.com\.cn|[a-z0-9.-]+)"
)
_SCHEME = re.compile(r"(?:docker|https?|oci)://", re.IGNORECASE)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class InvalidImage(ValueError):
    """Not the address of an image in a private ECR registry; the message says what to enter."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image.

    Attributes:
        repository: the name of its repository.
        tag: its tag; empty if there is only a digest.
        digest: its digest, or empty.
        account: the registry's account; empty for a name without a registry.
        region: the registry's region; empty for a name without a registry.
        host: the registry's host as it was given, or empty.
    """

    repository: str
    tag: str = ""
    digest: str = ""
    account: str = ""
    region: str = ""
    host: str = ""

    @property
    def reference(self) -> str:
        """The tag or the digest, for people. The digest decides if there are both."""
        return f"the digest {self.digest}" if self.digest else f"the tag {self.tag}"

    @property
    def suffix(self) -> str:
        """What follows the repository in the address."""
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    @property
    def is_dual_stack(self) -> bool:
        """Whether the address is the dual-stack one."""
        return ".dkr-ecr" in self.host

    def address(self) -> str:
        """Return the whole address."""
        domain = "amazonaws.com.cn" if self.region.startswith("cn-") else "amazonaws.com"
        host = self.host or f"{self.account}.dkr.ecr.{self.region}.{domain}"
        return f"{host}/{self.repository}{self.suffix}"


def parse_image(text: str) -> Image:
    """Parse the address of an image. A missing tag is `latest`, as for Docker.

    Raises:
        InvalidImage: it is not in a private ECR registry, or not an address.
    """
    if scheme := _SCHEME.match(text):
        raise InvalidImage(f"{text!r} has a scheme: use {text[scheme.end() :]!r}")
    rest, _, digest = text.strip().partition("@")
    first, slash, path = rest.partition("/")
    has_host = bool(slash) and ("." in first or ":" in first or first == "localhost")
    host = _HOST.fullmatch(first) if has_host else None
    if has_host and not host:
        raise InvalidImage(_other_registry(first, path))
    name, _, tag = (path if has_host else rest).partition(":")
    if not is_repository_name(name):
        raise InvalidImage(
            f"{text!r} is not the address of an image: {name!r} is not a name that an ECR repository can "
            f"have; use for example {EXAMPLE_IMAGE}"
        )
    if digest and not _DIGEST.fullmatch(digest):
        raise InvalidImage(f"{digest!r} is not a digest: use sha256: and 64 hexadecimal digits")
    if tag and not _TAG.fullmatch(tag):
        raise InvalidImage(f"{tag!r} is not a tag that an image can have")
    tag = tag or ("" if digest else "latest")
    if not host:
        return Image(name, tag, digest)
    return Image(name, tag, digest, host["account"], host["region"], first)


def _other_registry(host: str, path: str) -> str:
    if host == "public.ecr.aws":
        return f"{host} is ECR Public: its images need no permission, and no grant"
    if ".ecr" in host or "ecr." in host:
        return f"{host!r} is not the address of an ECR registry: use for example {EXAMPLE_IMAGE}"
    return (
        f"{host} is not an ECR registry: this command diagnoses pulls from Amazon ECR; if {path!r} comes "
        f"through a pull-through cache, use the address in ECR, for example {EXAMPLE_IMAGE}"
    )
