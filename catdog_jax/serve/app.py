"""The routes: the page, `/predict` and `/healthz`, within limits."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from importlib.resources import files
from threading import Thread
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from ..runs.classifier import Classifier
from .batching import Batcher
from .guard import Guard

_LONGEST_NAME = 255  # of a photo, as on most disks
_PAGE = {"/": "page.html", "/page.css": "page.css", "/page.js": "page.js"}
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}


@dataclass(frozen=True)
class Limits:
    """What one request, and all together, may take."""

    bytes: int = 20_000_000
    """Of a photo as a file."""
    pixels: int = 50_000_000
    """Of a photo, width times height."""
    at_once: int = 64
    """Photos on their way or waiting for an answer; more are told to come again."""
    seconds: float = 30
    """For a photo to arrive."""


def create_app(
    classifier: Classifier, limits: Limits | None = None, host: str = "127.0.0.1"
) -> ASGIApp:
    """The server as an ASGI application, that answers by `classifier` and listens on `host`.

    Compiles the program for one photo: a few seconds. The others follow once it has started.
    """
    service = _Service(classifier, limits or Limits())
    service.batcher.compile_first()
    routes = [Route(path, _static(file)) for path, file in _PAGE.items()]
    routes += [
        Route("/predict", service.predict, methods=["POST"]),
        Route("/healthz", service.health),
    ]
    app = Starlette(
        routes=routes,
        lifespan=service.working,
        exception_handlers={HTTPException: _http_error, Exception: _own_error},
    )
    return Guard(app, host)


class _Service:
    def __init__(self, classifier: Classifier, limits: Limits) -> None:
        self.batcher = Batcher(classifier, limits.pixels)
        self._classifier = classifier
        self._limits = limits
        self._at_once = 0

    @asynccontextmanager
    async def working(self, app: Starlette) -> AsyncIterator[None]:
        """While the server runs: classify, and compile for more photos at once."""
        del app
        compiling = Thread(target=self.batcher.compile_others)
        compiling.start()
        classifying = asyncio.create_task(self.batcher.run())
        try:
            yield
        finally:
            classifying.cancel()
            self.batcher.stop()
            compiling.join()

    async def health(self, request: Request) -> Response:
        """Who answers, and within which limits."""
        del request
        return JSONResponse(
            {
                "status": "ok",
                "about": self._classifier.about,
                "class_names": self._classifier.class_names,
                "heat_maps": self.batcher.why_no_heat is None,
                "limits": asdict(self._limits),
            }
        )

    async def predict(self, request: Request) -> Response:
        """Answer about the photo that is the body."""
        name = request.query_params.get("file", "photo")[:_LONGEST_NAME]
        if request.headers.get("content-type", "").startswith("multipart/"):
            return _refusal(415, name, "send the photo itself as the body, not a form")
        room = self._at_once < self._limits.at_once
        self._at_once += room
        try:
            return await self._answer(request, name, room)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody is there to read it
        finally:
            self._at_once -= room

    async def _answer(self, request: Request, name: str, room: bool) -> Response:
        limits = self._limits
        try:
            async with asyncio.timeout(limits.seconds):
                body = await _body(request, limits.bytes if room else 0)
        except TimeoutError:
            return _refusal(408, name, f"it did not arrive within {limits.seconds:g} s")
        if not room:
            busy = f"{limits.at_once} photos are waiting already; try again in a second"
            return _refusal(503, name, busy, {"Retry-After": "1"})
        if body is None:
            return _refusal(413, name, f"it is larger than {limits.bytes / 1e6:g} MB")
        explain = request.query_params.get("explain", "0") not in ("", "0", "false")
        try:
            return JSONResponse(await self.batcher.answer(name, body, explain=explain))
        except ValueError as error:
            return _refusal(422, name, str(error))


async def _body(request: Request, most_bytes: int) -> bytes | None:
    """The body, or None if it is larger.

    Read to its end all the same: who still sends would not see a refusal.
    """
    kept, size = bytearray(), 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= most_bytes:
            kept += chunk
        else:
            kept.clear()
    return bytes(kept) if size <= most_bytes else None


def _refusal(code: int, name: str, why: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"file": name, "error": why}, code, headers)


def _static(file: str) -> Any:
    content = files(__package__ or "").joinpath(file).read_bytes()
    media_type = _TYPES[file.rpartition(".")[2]]

    async def send(request: Request) -> Response:
        del request
        return Response(content, media_type=media_type)

    return send


async def _http_error(request: Request, error: Exception) -> Response:
    """No such path, or not by this method."""
    del request
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _own_error(request: Request, error: Exception) -> Response:
    """A fault of the server: the terminal has the details."""
    del request, error
    return JSONResponse({"error": "the server failed; its terminal says why"}, 500)
