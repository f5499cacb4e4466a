"""What keeps a page of another site, open in somebody's browser, from using a Stillhouse that the browser reaches.

There are no passwords: on loopback, or in a company's network, reaching it is being allowed to use it, and a browser
reaches it for every page that it shows.
"""

from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from app.error_handlers import error_response
from app.loopback import is_loopback
from app.middleware import READING
from app.settings import Settings

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class ForeignPageMiddleware:
    """Refuse what a page of another origin sends, and a name that somebody else may have pointed at loopback.

    The first needs no list: browsers say in Sec-Fetch-Site from where a request comes, and other clients say nothing.
    Towards plain http:// beyond loopback browsers say only the page's Origin, which then has to be what Host says.
    A page can send a form without asking first (`POST /datasets` is one), though it cannot read the answer. It could
    read all under a name of its own whose address it changes to 127.0.0.1 (DNS rebinding); so in the embedded mode a
    connection to loopback has to call it by a loopback name, or by one of `allowed_hosts`.
    """

    def __init__(self, app: ASGIApp, *, settings: Settings) -> None:
        self.app = app
        self._checks_host = settings.embedded
        self._allowed_hosts = settings.allowed_host_names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (refusal := self._refusal(scope)) is not None:
            code, message, param = refusal
            answer = error_response(Request(scope), status=403, code=code, message=message, param=param)
            await answer(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[str, str, str] | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if scope["method"] not in READING and _is_of_another_page(headers):
            message = (
                f"A page of {headers.get('origin', 'another origin')} sent this {scope['method']}; browsers may do so "
                "only from Stillhouse's own pages. Send it from a program, or have the page's server send it."
            )
            if "sec-fetch-site" not in headers:
                message += f" The Host is {host!r}; a proxy has to pass it on as it came."
            return "foreign_page", message, "Origin"
        if self._checks_host and is_loopback((scope.get("server") or ("",))[0]) and not self._may_be_called(host):
            return (
                "foreign_host",
                f"The Host is {host!r}, which is no name of this machine's loopback. Use localhost or 127.0.0.1, or "
                "add the name to STILLHOUSE_ALLOWED_HOSTS.",
                "Host",
            )
        return None

    def _may_be_called(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name == "localhost" or name.endswith(".localhost") or name in self._allowed_hosts or is_loopback(name)


def _is_of_another_page(headers: Headers) -> bool:
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is not None and not _is_at(origin, headers.get("host", ""))


def _is_at(origin: str, host: str) -> bool:
    """Whether a page of this origin came from this host and port. None did whose origin is "null"."""
    try:
        page, called = urlsplit(origin), urlsplit(f"//{host}")
        # Behind TLS that ends before us only the page knows the scheme.
        default = _DEFAULT_PORTS.get(page.scheme)
        of_page, of_host = (page.hostname, page.port or default), (called.hostname, called.port or default)
    except ValueError:
        return False
    return page.hostname is not None and of_page == of_host
