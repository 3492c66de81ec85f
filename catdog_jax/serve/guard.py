"""Who may ask: this machine's own page and programs, no other web page."""

import ipaddress
import socket
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_ANY = ("0.0.0.0", "::", "")
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; object-src 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens on `host`."""
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


class Guard:
    """Answers 403 to other sites, and adds headers that tell browsers to be strict.

    The `Host` a browser sends must be an address or a name of this server: else a site could let
    its own name point here (DNS rebinding) and read the answers. The `Origin` must be the page's.
    """

    def __init__(self, app: ASGIApp, host: str) -> None:
        """Guard `app`, which listens on `host`."""
        self._app = app
        self._any_address = host in _ANY
        self._names = {"localhost", "127.0.0.1", "::1", host.lower()}
        if self._any_address:
            self._names.add(socket.gethostname().lower())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        why = self._refused(Headers(scope=scope))
        app = JSONResponse({"error": why}, 403) if why else self._app
        await app(scope, receive, send_with_headers)

    def _refused(self, headers: Headers) -> str:
        """Why a request is refused, or ``."""
        host = headers.get("host", "")
        name = _name(host)
        if name not in self._names and not (self._any_address and _is_address(name)):
            return "this server is not known by that name"
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return "pages of other sites get no answer"
        # Pictures and scripts of other pages come without Origin; links to the page are harmless.
        from_elsewhere = headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
        if from_elsewhere and headers.get("sec-fetch-mode") != "navigate":
            return "pages of other sites get no answer"
        return ""


def _name(host: str) -> str:
    """`host` without its port, in lower case."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:  # brackets that enclose no address
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
