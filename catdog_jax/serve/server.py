"""A server on a port of this machine, until Ctrl-C."""

import errno
import os
import socket
import sys
import webbrowser
from collections.abc import Callable
from threading import Thread

import uvicorn
from starlette.types import ASGIApp

from ..errors import InputError, first_line


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 is any free one.

    Raises:
        InputError: the port is in use or not allowed, or the host is not this machine's.
    """
    if not 0 <= port <= 65535:
        raise InputError(f"--port must be from 0 to 65535, not {port}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise InputError(
                f"port {port} is in use; choose another with --port, or 0 for any free one"
            ) from error
        raise InputError(f"cannot listen on {host}, port {port}: {first_line(error)}") from error


def address(listening: socket.socket, host: str) -> str:
    """The page's address, for a browser on this machine; `host` as given to `listen`."""
    port = listening.getsockname()[1]
    host = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


class Server(uvicorn.Server):
    """Answers on a socket that listens; `run` ends on Ctrl-C, or once `should_exit` is set."""

    def __init__(self, app: ASGIApp, ready: Callable[[], None]) -> None:
        """`ready` is called when the first request can come."""
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                log_level="error",
                access_log=False,  # nothing is noted down of who asks what
                server_header=False,
                proxy_headers=False,
                ws="none",
                lifespan="on",
                timeout_graceful_shutdown=3,
            )
        )
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, and say that it is done."""
        await super().startup(sockets)
        if self.started:
            self._ready()


def open_browser(url: str) -> None:
    """Show the page, if there is a screen: a browser for terminals would take over this one."""
    if sys.platform in ("darwin", "win32") or {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
        Thread(target=webbrowser.open, args=(url,), daemon=True).start()
