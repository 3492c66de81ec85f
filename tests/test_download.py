"""Downloads from a local server that fails in all the ways servers and networks do."""

import contextlib
import io
import logging
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import h5py
import numpy as np
import pytest
from helpers import Terminal
from keras_reference import blank

from catdog_jax import files
from catdog_jax.data import download, sources
from catdog_jax.data.download import fetch
from catdog_jax.errors import InputError
from catdog_jax.models import keras_weights
from catdog_jax.models.mobilenet_v2 import MobileNetV2


def a_zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("noise", random.Random(0).randbytes(300_000))
    return file.getvalue()


BODY = a_zip()
HTML = b"<!DOCTYPE html>\n<html><title>Please log in</title></html>"
HALF = len(BODY) // 2


def is_zip(path):
    zipfile.ZipFile(path).close()


class Handler(BaseHTTPRequestHandler):
    server: "Server"  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self):
        self.server.asked.append(self.path)
        with contextlib.suppress(ConnectionError):  # the client may have gone
            self.server.answer(self)

    def log_message(self, format, *args):
        del format, args

    def send(self, body, status=200, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    """Answers every GET as `answer` does, and notes its path."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/photos.zip"
        self.asked: list[str] = []
        self.answer: Any = whole
        self.halfway, self.go_on = threading.Event(), threading.Event()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.go_on.set()
        server.shutdown()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "folder/photos.zip"


def whole(handler):
    handler.send(BODY, Content_Length=len(BODY))


def with_a_pause(handler):
    """All of it, but the second half only when `go_on` is set."""
    handler.send(BODY[:HALF], Content_Length=len(BODY))
    handler.server.halfway.set()
    handler.server.go_on.wait(20)
    handler.wfile.write(BODY[HALF:])


def moved(handler):
    if handler.path == "/elsewhere":
        whole(handler)
    else:
        handler.send(b"", 302, Location="/elsewhere", Content_Length=0)


def to_a_login(handler):
    if handler.path == "/login":
        handler.send(HTML, Content_Length=len(HTML), Content_Type="text/html")
    else:
        handler.send(b"", 302, Location="/login", Content_Length=0)


def files_beside(path):
    names = {file.name.removeprefix(path.name) for file in path.parent.iterdir()}
    return names - {f".{path.name}.lock"}


def assert_refused(url, path, why):
    """Check for one line with the address, the reason and what to do."""
    with pytest.raises(InputError) as error:
        fetch(url, path, is_zip)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(f"{url} could not be downloaded to {path.parent} (")
    assert re.search(why, message), message
    assert "download it by other means" in message


# What arrives.


WELL = {
    "well": whole,
    "moved": moved,
    "no length": lambda handler: handler.send(BODY),
}


@pytest.mark.parametrize("answer", WELL.values(), ids=WELL)
def test_a_whole_file_is_kept(server, path, answer):
    server.answer = answer
    assert fetch(server.url, path, is_zip) == path
    assert path.read_bytes() == BODY
    assert files_beside(path) == {""}


def test_the_file_is_requested_once_and_uncompressed(server, path):
    encodings = []

    def note(handler):
        encodings.append(handler.headers["Accept-Encoding"])
        whole(handler)

    server.answer = note
    for _ in range(3):
        fetch(server.url, path, is_zip)
    assert encodings == ["identity"]


# What does not arrive, or not whole.

WRONG = {
    "cut off": (
        lambda handler: handler.send(BODY[:HALF], Content_Length=len(BODY)),
        "IncompleteRead|bytes came",
    ),
    "cut off, nothing announced": (
        lambda handler: handler.send(BODY[:-1]),
        "what came holds no whole file of its kind",
    ),
    "less announced": (
        lambda handler: handler.send(BODY, Content_Length=HALF),
        "what came holds no whole file of its kind",
    ),
    "empty": (
        lambda handler: handler.send(b"", Content_Length=0),
        "what came holds no whole file of its kind",
    ),
    "HTML": (
        lambda handler: handler.send(HTML, Content_Length=len(HTML)),
        r"\(what came holds HTML, not a whole file of its kind\)",
    ),
    "a login page": (to_a_login, "what came holds HTML"),
    "not found": (
        lambda handler: handler.send(HTML, 404, Content_Length=len(HTML)),
        r"\(404 Client Error: Not Found\)",
    ),
    "broken": (
        lambda handler: handler.send(HTML, 500, Content_Length=len(HTML)),
        r"\(500 Server Error: Internal Server Error\)",
    ),
    "circles": (
        lambda handler: handler.send(b"", 302, Location="/photos.zip", Content_Length=0),
        "redirects",
    ),
    "hangs up": (lambda handler: None, r"\(Remote end closed connection without response\)"),
    "says nothing": (lambda handler: handler.server.go_on.wait(20), r"\(timed out\)"),
    "stalls": (with_a_pause, r"\(timed out\)"),
}


@pytest.mark.parametrize(("answer", "why"), WRONG.values(), ids=WRONG)
def test_a_failed_download_leaves_nothing(server, path, monkeypatch, answer, why):
    server.answer = answer
    with monkeypatch.context() as patch:
        patch.setattr(download, "_TIMEOUT", 0.3)
        assert_refused(server.url, path, why)
    assert files_beside(path) == set()
    server.answer = whole
    assert fetch(server.url, path, is_zip).read_bytes() == BODY


@pytest.mark.usefixtures("server")
def test_no_server_answers(path):
    assert_refused("http://127.0.0.1:1/photos.zip", path, r"\(Connection refused\)")
    assert files_beside(path) == set()


def test_a_full_disk(server, small_disk):
    with (small_disk / "fill").open("wb") as file, contextlib.suppress(OSError):
        while file.write(bytes(2**16)):
            file.flush()
    os.truncate(small_disk / "fill", (small_disk / "fill").stat().st_size - 2**17)
    path = small_disk / "photos.zip"
    assert_refused(server.url, path, r"\(No space left on device\)")
    assert {file.name for file in small_disk.iterdir()} == {"fill", ".photos.zip.lock"}


def test_a_file_where_the_folder_should_be(server, path):
    path.parent.write_text("x")
    assert_refused(server.url, path, r"\((File exists|Not a directory)\)")
    assert server.asked == []


@pytest.fixture
def read_only(path, monkeypatch):
    path.parent.mkdir(exist_ok=True)
    path.parent.chmod(0o555)
    if os.geteuid() == 0:  # root may write all the same

        def refuse(name):
            raise PermissionError(13, "Permission denied", name)

        monkeypatch.setattr(files, "FileLock", refuse)
    yield
    path.parent.chmod(0o755)


@pytest.mark.usefixtures("read_only")
def test_a_read_only_folder(server, path):
    assert_refused(server.url, path, r"\(Permission denied\)")
    assert server.asked == []


# Several processes, and the end of one.

CHILD = (
    "import sys; from pathlib import Path; from catdog_jax.data.download import fetch\n"
    "fetch(sys.argv[1], Path(sys.argv[2]), Path.stat)"
)


@pytest.fixture
def halfway(server, path):
    """A process that has downloaded half of the file and waits for the rest."""
    server.answer = with_a_pause
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, server.url, str(path)], stderr=subprocess.DEVNULL
    ) as process:
        assert server.halfway.wait(60)
        part, tries = path.with_name(f".{path.name}.unfinished"), 0
        while not any(file.stat().st_size for file in part.glob("*")) and tries < 1000:
            time.sleep(0.01)
            tries += 1
        yield process
        server.go_on.set()


@contextlib.contextmanager
def when_waiting(act):
    """Call `act` when this process says that it waits for another, and check that it does once."""
    said = []

    class Handler(logging.Handler):
        def emit(self, record):
            said.append(record.getMessage())
            act()

    logger, handler = logging.getLogger(files.__name__), Handler()
    logger.addHandler(handler)
    yield
    logger.removeHandler(handler)
    assert len(said) == 1
    assert "waiting for another process" in said[0]


def test_of_two_processes_one_downloads(server, path, halfway):
    with when_waiting(server.go_on.set):
        assert fetch(server.url, path, is_zip).read_bytes() == BODY
    assert halfway.wait(60) == 0
    assert server.asked == ["/photos.zip"]
    assert files_beside(path) == {""}


def test_the_waiting_process_takes_over_when_the_other_is_killed(server, path, halfway):
    def kill():
        server.answer = whole
        halfway.kill()

    with when_waiting(kill):
        assert fetch(server.url, path, is_zip).read_bytes() == BODY
    assert server.asked == ["/photos.zip"] * 2
    assert files_beside(path) == {""}


def test_the_leftovers_of_a_killed_process_are_deleted(server, path, halfway):
    halfway.kill()
    assert halfway.wait(60) == -signal.SIGKILL
    assert files_beside(path) == {f".{path.name}.unfinished"}
    server.answer = whole
    assert fetch(server.url, path, is_zip).read_bytes() == BODY
    assert files_beside(path) == {""}


def test_ctrl_c_leaves_nothing(path, halfway):
    halfway.send_signal(signal.SIGINT)
    assert halfway.wait(60) != 0
    assert files_beside(path) == set()


# Progress.


def test_progress_is_shown_on_a_terminal(server, path, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    fetch(server.url, path, is_zip)
    assert "100%" in terminal.getvalue()


def test_progress_is_shown_nowhere_else(server, path, capfd):
    fetch(server.url, path, is_zip)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


# The two kinds of downloads.


def test_photos_that_are_not_a_whole_zip_are_refused(server, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_FILTERED_URL", server.url)
    server.answer = lambda handler: handler.send(BODY[:-30])
    with pytest.raises(InputError, match="holds no whole file of its kind"):
        sources.download_filtered(tmp_path)
    assert not (tmp_path / "photos.zip").exists()
    damaged = BODY[:HALF] + bytes([BODY[HALF] ^ 1]) + BODY[HALF + 1 :]
    server.answer = lambda handler: handler.send(damaged, Content_Length=len(BODY))
    with pytest.raises(InputError, match=r"its kind \(noise in it is damaged\)"):
        sources.download_filtered(tmp_path)
    assert not (tmp_path / "photos.zip").exists()
    server.answer = whole
    assert sources.download_filtered(tmp_path) == tmp_path / "photos.zip"


@pytest.mark.usefixtures("short_backbone")
def test_weights_that_are_not_those_of_a_mobilenet_are_refused(server, tmp_path, monkeypatch):
    monkeypatch.setattr(keras_weights, "OFFICIAL_URL", server.url.removesuffix("photos.zip"))
    monkeypatch.setenv("CATDOG_CACHE", str(tmp_path))
    backbone = blank(MobileNetV2, 0.35)
    with h5py.File(tmp_path / "any.h5", "w") as file:
        file["any"] = np.arange(1000)
    with h5py.File(tmp_path / "zeros.h5", "w") as file:
        for name, shape in keras_weights._shapes(backbone).items():
            shape = (*shape[:2], shape[3], 1) if "depthwise/" in name else shape
            file[f"{name.split('/')[0]}/{name}:0"] = np.zeros(shape, np.float32)
    weights = (tmp_path / "zeros.h5").read_bytes()
    others = (tmp_path / "any.h5").read_bytes()
    for body, why in [
        (HTML, "holds HTML"),
        (weights[:-1], "truncated"),
        (others, "holds no MobileNetV2"),
    ]:
        server.answer = lambda handler, body=body: handler.send(body)
        with pytest.raises(InputError, match=why):
            keras_weights.weights_file("imagenet", alpha=0.35, image_size=96)
    assert keras_weights.cached_official_weights(0.35, 96) is None
    server.answer = lambda handler: handler.send(weights)
    path = keras_weights.weights_file("imagenet", alpha=0.35, image_size=96)
    assert path == keras_weights.cached_official_weights(0.35, 96)
    assert path.read_bytes() == weights
