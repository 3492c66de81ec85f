"""How fast `catdog-jax serve` answers, and whether its memory stays flat.

    python experiments/serve_load.py --data my_photos/

Starts the server, asks it from 1, 8 and 32 clients at once, and prints photos a second, the median
and the 95th percentile of the time to an answer, and the server's memory after each thousand.
"""

import http.client
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from catdog_jax.cli import script
from catdog_jax.data.listing import list_photos


def main(
    data: Path,
    clients: tuple[int, ...] = (1, 8, 32),
    each: int = 400,
    total: int = 10_000,
    hostile: int = 500,
) -> None:
    """Measure.

    Args:
        data: a folder; its photos are sent again and again.
        clients: how many ask at once, in turn.
        each: photos sent by so many clients.
        total: photos sent afterwards, by 8 clients, to watch the memory.
        hostile: damaged photos sent at the end.
    """
    photos = [path.read_bytes() for path in list_photos(data)]
    with server() as (host, process):
        for words in ("", "?explain=1"):
            for count in clients:
                seconds, times, codes = ask(host, photos[:each], count, words, each)
                half, most = np.percentile(times, [50, 95])
                print(
                    f"{count:3} clients{' with heat maps' if words else ''}: "
                    f"{each / seconds:.1f} photos/s, median {1000 * half:.0f} ms, "
                    f"95 % within {1000 * most:.0f} ms, {dict(codes)}",
                    flush=True,
                )
        for done in range(0, total, 1000):
            print(f"{done:6} more photos: {megabytes(process.pid):.0f} MB", flush=True)
            ask(host, photos, 8, "", 1000)
        print(f"{total:6} more photos: {megabytes(process.pid):.0f} MB")
        rng = random.Random(0)
        codes = ask(host, [damaged(rng, photos) for _ in range(hostile)], 8, "", hostile)[2]
        print(f"{hostile} damaged photos: {dict(codes)}, {megabytes(process.pid):.0f} MB")


@contextmanager
def server() -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server of its own, ready; its address and process."""
    words = [sys.executable, "-m", "catdog_jax", "serve", "--no-browser", "--port", "0"]
    start = time.perf_counter()
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        address = re.search(r"//(\S+)/", process.stdout.readline())
        assert address
        print(f"ready after {time.perf_counter() - start:.1f} s")
        time.sleep(40)  # until it has compiled for all batch sizes
        yield address[1], process
        process.terminate()


def ask(
    host: str, photos: list[bytes], clients: int, words: str, total: int
) -> tuple[float, list[float], Counter[int]]:
    """Send `total` photos; returns seconds in all, seconds of each, and counts of status codes."""

    def client(number: int) -> tuple[list[float], Counter[int]]:
        connection = http.client.HTTPConnection(host)
        times, codes = [], Counter[int]()
        for index in range(number, total, clients):
            start = time.perf_counter()
            connection.request("POST", f"/predict{words}", photos[index % len(photos)])
            answer = connection.getresponse()
            answer.read()
            times.append(time.perf_counter() - start)
            codes[answer.status] += 1
        connection.close()
        return times, codes

    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        parts = [*pool.map(client, range(clients))]
    times = [one for part, _ in parts for one in part]
    return time.perf_counter() - start, times, sum((codes for _, codes in parts), Counter())


def damaged(rng: random.Random, photos: list[bytes]) -> bytes:
    """A photo with some bytes changed, cut somewhere."""
    bad = bytearray(rng.choice(photos))
    for _ in range(rng.randint(1, 30)):
        bad[rng.randrange(len(bad))] = rng.randrange(256)
    return bytes(bad[: rng.randrange(len(bad))] if rng.random() < 0.7 else bad)


def megabytes(process: int) -> float:
    """Resident memory of a process (Linux)."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


if __name__ == "__main__":
    script(main)
