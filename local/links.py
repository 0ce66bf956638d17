"""Asks whether the pages of others that the docs link to still answer: a part of `make audit`."""

import re
import sys
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from local.machine import PROJECT

_LINK = re.compile(r"\]\((https://[^)#\s]+)")
_PATIENCE = 20  # seconds
_GONE = (404, 410)


def main() -> int:
    """Ask each once; give the exit code, 0 if none is gone."""
    pages = [*PROJECT.glob("*.md"), *PROJECT.glob("docs/*.md")]
    gone = [
        link
        for link in sorted({link for page in pages for link in _LINK.findall(page.read_text())})
        if not _answers(link)
    ]
    for link in gone:
        print(f"does not answer: {link}", file=sys.stderr)  # noqa: T201 - it is the answer
    return bool(gone)


def _answers(link: str) -> bool:
    request = Request(link, headers={"User-Agent": "Mozilla/5.0"})  # noqa: S310 - https alone
    try:
        urlopen(request, timeout=_PATIENCE).close()  # noqa: S310 - https alone
    except HTTPError as error:
        return error.code not in _GONE  # others may only mean that robots are not welcome
    except URLError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
