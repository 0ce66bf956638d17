"""Checks that the external links in the documentation still work. Part of `make audit`."""

import re
import sys
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from devstack.host import PROJECT

_LINK = re.compile(r"\]\((https://[^)#\s]+)")
_TIMEOUT = 20  # seconds
_GONE = (404, 410)


def main() -> int:
    """Request each link once. Return the exit code, 1 if a link is broken."""
    broken = [link for link in _external_links() if not _works(link)]
    for link in broken:
        print(f"broken link: {link}", file=sys.stderr)  # noqa: T201 - the script's output
    return int(bool(broken))


def _external_links() -> list[str]:
    pages = [*PROJECT.glob("*.md"), *PROJECT.glob("docs/*.md")]
    return sorted({link for page in pages for link in _LINK.findall(page.read_text())})


def _works(link: str) -> bool:
    request = Request(link, headers={"User-Agent": "Mozilla/5.0"})  # noqa: S310 - the scheme is https
    try:
        urlopen(request, timeout=_TIMEOUT).close()  # noqa: S310 - the scheme is https
    except HTTPError as error:
        return error.code not in _GONE  # other statuses often mean that the site blocks scripts
    except URLError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
