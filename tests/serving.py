"""A server in a thread, and questions to it."""

import contextlib
import http.client
import io
import json
from collections.abc import Iterator, Mapping
from threading import Event, Thread
from typing import Any, NamedTuple

import numpy as np
from flax import nnx
from PIL import Image

from catdog_jax.runs.classifier import Classifier
from catdog_jax.runs.experiment import Experiment
from catdog_jax.serve.app import Limits, create_app
from catdog_jax.serve.server import Server, address, listen


class Red(nnx.Module):
    """A feature map: how red each place is."""

    def __call__(self, images: Any) -> Any:
        return images[..., :1] / 127.5 - 1


class ByRed(nnx.Module):
    """The redder a photo, the surer the second class."""

    def __init__(self) -> None:
        self.red = Red()

    def __call__(self, images: Any) -> Any:
        return 5 * self.red(images).mean(axis=(1, 2)) * np.array([[-1.0, 1.0]], np.float32)


def by_red(network: nnx.Module | None = None) -> Classifier:
    """Unsure about photos that are half red."""
    return Classifier(network or ByRed(), Experiment(""), ("blue", "red"), 8, 0.9, about="by red")


def photo(red: int = 255, size: tuple[int, int] = (9, 7), kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (red, 0, 0)).save(file, kind)
    return file.getvalue()


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Asker:
    """Asks a server; each question by a connection of its own."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.host = url.split("/")[2]

    def __call__(
        self, path: str = "/", body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        connection = http.client.HTTPConnection(self.host, timeout=20)
        with contextlib.closing(connection):
            connection.request("GET" if body is None else "POST", path, body, headers or {})
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.headers), answer.read())


@contextlib.contextmanager
def serving(classifier: Classifier, limits: Limits | None = None) -> Iterator[Asker]:
    started = Event()
    with listen("127.0.0.1", 0) as listening:
        server = Server(create_app(classifier, limits), started.set)
        thread = Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            assert started.wait(20)
            yield Asker(address(listening, "127.0.0.1"))
        finally:
            server.should_exit = True
            thread.join()
