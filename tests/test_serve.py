"""The page's server: the same answers as `predict --json`, within limits, to nobody else."""

import asyncio
import base64
import io
import json
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import numpy as np
import photo_files
import pytest
from flax import nnx
from PIL import Image
from serving import Asker, ByRed, by_red, photo, serving
from starlette.datastructures import Headers

from catdog_jax.cli import main
from catdog_jax.runs.classifier import Classifier
from catdog_jax.serve.app import Limits
from catdog_jax.serve.batching import Batcher
from catdog_jax.serve.guard import Guard

SMALL = Limits(bytes=60_000, pixels=1_000_000, at_once=2, seconds=0.5)


@pytest.fixture(scope="module")
def ask() -> Iterator[Asker]:
    with serving(by_red(), SMALL) as asker:
        yield asker


def test_the_answer_is_that_of_predict(ask: Asker) -> None:
    for red in (0, 140, 255):
        [expected] = by_red().answers([("my cat é.png", photo(red))])
        answer = ask("/predict?file=my%20cat%20%C3%A9.png", photo(red))
        assert answer.status == 200
        shares = answer.json["probabilities"]
        assert shares == pytest.approx(expected["probabilities"])
        assert {**answer.json, "probabilities": expected["probabilities"]} == expected
    assert ask("/predict", photo()).json["file"] == "photo"


def test_a_heat_map_is_a_picture_that_covers_what_speaks_for_the_class(ask: Asker) -> None:
    half = Image.new("RGB", (80, 40), (60, 0, 0))
    half.paste((255, 0, 0), (0, 0, 40, 40))
    file = io.BytesIO()
    half.save(file, "PNG")
    answer = ask("/predict?explain=1", file.getvalue()).json
    assert answer["class"] == "red"
    picture = base64.b64decode(answer["heat_map"].removeprefix("data:image/png;base64,"))
    alpha = np.asarray(Image.open(io.BytesIO(picture)))[..., 3]
    assert alpha.shape == (8, 8)
    assert alpha[:, :4].min() > 180
    assert alpha[:, 4:].max() == 0


def test_a_network_without_a_feature_map_answers_all_the_same() -> None:
    class Mean(nnx.Module):
        def __call__(self, images: Any) -> Any:
            return ByRed()(images)

    with serving(by_red(Mean())) as ask:
        assert ask("/healthz").json["heat_maps"] is False
        answer = ask("/predict?explain=1", photo())
        assert (answer.status, answer.json["class"]) == (200, "red")
        assert "heat_map" not in answer.json


def test_who_answers_and_the_page_itself(ask: Asker) -> None:
    facts = ask("/healthz").json
    assert facts["status"] == "ok"
    assert facts["about"] == "by red"
    assert facts["class_names"] == ["blue", "red"]
    assert facts["limits"]["bytes"] == SMALL.bytes
    for path, kind in (("/", "html"), ("/page.css", "css"), ("/page.js", "javascript")):
        answer = ask(path)
        assert answer.status == 200
        assert kind in answer.headers["content-type"]
        assert b"://" not in answer.body, "it would need the network"
        assert answer.headers["content-security-policy"].startswith("default-src 'self'")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
    for path in ("/../pyproject.toml", "/page.html", "/%2e%2e/app.py", "/predict", "//etc/passwd"):
        answer = ask(path)
        assert answer.status in (404, 405)
        assert answer.json["error"]


def test_pages_of_other_sites_get_nothing(ask: Asker) -> None:
    port = ask.host.split(":")[1]
    own = f"http://{ask.host}"
    for headers, allowed in (
        ({}, True),
        ({"Origin": own}, True),
        ({"Host": f"localhost:{port}", "Origin": f"http://localhost:{port}"}, True),
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, True),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Origin": "http://evil.example"}, False),
        ({"Origin": f"http://localhost:{port}"}, False),
        ({"Origin": "http://127.0.0.1:1"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "http://[broken"}, False),
        ({"Host": "evil.example"}, False),
        ({"Host": f"127.0.0.1.evil.example:{port}"}, False),
        ({"Host": "192.168.0.7"}, False),
        ({"Host": "[broken"}, False),
        ({"Host": ""}, False),
    ):
        for path, body in (("/healthz", None), ("/predict", photo())):
            answer = ask(path, body, headers)
            assert answer.status == (200 if allowed else 403), headers
            assert "access-control-allow-origin" not in answer.headers
            assert allowed or set(answer.json) == {"error"}


def test_on_all_addresses_a_name_that_is_not_ours_is_refused() -> None:
    """A site's name can be made to point here, an address cannot."""
    guard = Guard(lambda *_: None, "0.0.0.0")  # pyright: ignore[reportArgumentType]
    for host, allowed in (
        ("192.168.0.7:8000", True),
        ("[fe80::1]:8000", True),
        (f"{socket.gethostname()}:8000", True),
        ("evil.example:8000", False),
    ):
        assert bool(guard._refused(Headers({"host": host}))) is not allowed, host


def test_what_is_no_photo_is_refused_with_the_reason(ask: Asker) -> None:
    jpeg = photo(kind="JPEG")
    for body, code, said in (
        (b"", 422, "the file is empty"),
        (b"\0", 422, "unknown image format"),
        (b"<!doctype html><script>alert(1)</script>", 422, "unknown image format"),
        (b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>", 422, "unknown image"),
        (b"%PDF-1.7", 422, "unknown image format"),
        (jpeg[: len(jpeg) // 2], 422, "Truncated"),
        (photo()[:50], 422, "truncated"),
        (photo_files.white_png(15_000), 422, "225000000 pixels"),
        (photo_files.white_png(1_001), 422, "1,002,001 pixels, more than 1,000,000"),
        (photo_files.png_header(2**31 - 1, 2**31 - 1), 422, "unknown image format"),
        (b"\xff\xd8" * 30_001, 413, "larger than 0.06 MB"),
    ):
        answer = ask("/predict?file=x", body)
        assert answer.status == code, (body[:20], answer)
        assert answer.json["file"] == "x"
        assert said in answer.json["error"]
        assert "\n" not in answer.json["error"]
        assert "0x" not in answer.json["error"]
    # A photo with a script behind it is the photo.
    assert ask("/predict", photo() + b"<script>alert(1)</script>").json["class"] == "red"
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    assert ask("/predict", b"--x--", form).status == 415


def hostile(count: int) -> Iterator[bytes]:
    """Photos of all formats, cut, spliced and with bytes changed."""
    rng = random.Random(0)
    kinds = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP")
    good = [photo(200, (60, 40), kind) for kind in kinds]
    for _ in range(count):
        bad = bytearray(rng.choice(good))
        for _ in range(rng.randint(1, 12)):
            bad[rng.randrange(len(bad))] = rng.randrange(256)
        start = rng.randrange(len(bad))
        yield bytes(
            rng.choice([bad, bad[:start], bad[start:], bad + rng.choice(good), bad[:start] * 3])
        )


def test_five_hundred_hostile_uploads_are_answered_without_a_fault(ask: Asker) -> None:
    codes = [ask("/predict?explain=1", body).status for body in hostile(500)]
    assert set(codes) == {200, 422}  # some changes leave a photo a photo
    assert codes.count(422) > 100
    assert ask("/predict", photo()).status == 200


def test_a_body_without_an_end_or_a_length_is_cut_off(ask: Asker) -> None:
    def endless(pause: float) -> Iterator[bytes]:
        for _ in range(100):
            yield b"\xff" * 1000
            time.sleep(pause)

    assert ask("/predict", endless(0)).status == 413  # chunked: no length is told
    start = time.monotonic()
    with socket.create_connection(ask.host.split(":")) as slow:  # pyright: ignore
        slow.sendall(f"POST /predict HTTP/1.1\r\nHost: {ask.host}\r\n".encode())
        slow.sendall(b"Content-Length: 9\r\n\r\nabc")
        assert b" 408 " in slow.recv(1000).splitlines()[0]
    assert time.monotonic() - start < 5


def test_more_photos_than_there_is_room_for_come_again_later() -> None:
    held, go_on = Event(), Event()

    class Held(Classifier):
        def predict(self, images: np.ndarray, names: Sequence[str] = ()) -> Any:
            if names:
                held.set()
                go_on.wait(20)
            return super().predict(images, names)

    with (
        serving(Held(**vars(by_red())), SMALL) as ask,
        ThreadPoolExecutor(2) as pool,
    ):
        waiting = [pool.submit(ask, "/predict", photo()) for _ in range(SMALL.at_once)]
        held.wait(20)
        while (answer := ask("/predict", photo())).status != 503:  # until both have arrived
            assert answer.status == 503
        assert answer.headers["retry-after"] == "1"
        assert "2 photos are waiting already" in answer.json["error"]
        assert ask("/healthz").status == 200
        go_on.set()
        assert [one.result().status for one in waiting] == [200, 200]
        assert ask("/predict", photo()).status == 200


def test_what_comes_while_the_network_is_busy_is_one_batch_and_a_fault_is_told() -> None:
    sizes, go_on = [], Event()

    class Counting(Classifier):
        def predict(self, images: np.ndarray, names: Sequence[str] = ()) -> Any:
            if names:
                sizes.append(len(names))
                go_on.wait(20)
                if "bad" in names:
                    raise RuntimeError("out of memory")
            return super().predict(images, names)

    async def work() -> list[Any]:
        batcher = Batcher(Counting(**vars(by_red())), SMALL.pixels)
        batcher.compile_others()
        running = asyncio.create_task(batcher.run())
        names = ["bad", *map(str, range(40))]
        first = asyncio.create_task(batcher.answer("bad", photo()))
        while not sizes:
            await asyncio.sleep(0.01)
        others = [asyncio.create_task(batcher.answer(name, photo())) for name in names[1:]]
        while batcher._queue.qsize() < 40:
            await asyncio.sleep(0.01)
        go_on.set()
        answers = await asyncio.gather(first, *others, return_exceptions=True)
        running.cancel()
        batcher.stop()
        return answers

    fault, *answers = asyncio.run(work())
    assert sizes == [1, 32, 8]
    assert isinstance(fault, RuntimeError)
    assert {answer["file"] for answer in answers} == set(map(str, range(40)))


def test_a_port_in_use_and_a_wrong_one_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--port", str(port)]) == 2
    assert capsys.readouterr().err == (
        f"error: port {port} is in use; choose another with --port, or 0 for any free one\n"
    )
    assert main(["serve", "--port", "70000"]) == 2
    assert main(["serve", "--host", "192.0.2.1", "--port", "0"]) == 2
    assert "cannot listen on 192.0.2.1" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_serves_the_ready_made_network_until_ctrl_c() -> None:
    """Slow: a process of its own, which compiles."""
    words = [sys.executable, "-m", "catdog_jax", "serve", "--no-browser", "--port", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        found = re.search(r"http://\S+", run.stdout.readline())
        assert found
        ask = Asker(found[0])
        assert "right in " in ask("/healthz").json["about"]
        answer = ask("/predict?file=a.png&explain=1", photo(size=(200, 100)))
        assert answer.status == 200
        assert json.loads(answer.body)["heat_map"].startswith("data:image/png")
        run.send_signal(signal.SIGINT)
        out, said = run.communicate(timeout=20)
    assert (run.returncode, out) == (0, "")
    assert said.startswith("note: the classifier of this package")
    assert said.count("\n") == 1
