"""Photos that come at once are decoded in threads and classified together."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any, NamedTuple

import numpy as np

from ..cores import usable_cores
from ..data.photo import decode_given
from ..errors import InputError
from ..runs.classifier import AT_ONCE, Classifier
from .heat import heat_maps, picture

_MOST_DECODERS = 4  # a PNG of 50 megapixels takes 0.7 GB and 3 s


class _Asked(NamedTuple):
    name: str
    pixels: np.ndarray
    explain: bool
    answer: asyncio.Future[dict[str, Any]]


class Batcher:
    """Answers about photos; those that come while the network is busy form its next batch.

    A photo that comes alone is classified at once: nothing waits for a batch to fill.
    """

    def __init__(self, classifier: Classifier, most_pixels: int) -> None:
        """Prepare; call `compile_first`, then let `run` and `compile_others` work."""
        self.why_no_heat: str | None = None
        """Why this classifier has no heat maps; None if it has."""
        self._classifier = classifier
        self._most_pixels = most_pixels
        self._at_once = 1
        self._stopped = Event()
        self._queue: asyncio.Queue[_Asked] = asyncio.Queue()
        decoders = min(usable_cores(), _MOST_DECODERS)
        self._decoders = ThreadPoolExecutor(decoders, "decode")
        self._network = ThreadPoolExecutor(1, "network")

    async def answer(self, name: str, encoded: bytes, *, explain: bool = False) -> dict[str, Any]:
        """The record of a photo, as `predict --json` prints it; with `explain`, and `heat_map`.

        Raises:
            ValueError: it cannot be decoded, or has too many pixels.
        """
        loop = asyncio.get_running_loop()
        size, most = self._classifier.image_size, self._most_pixels
        pixels = await loop.run_in_executor(self._decoders, decode_given, encoded, size, most)
        asked = _Asked(name, pixels, explain and not self.why_no_heat, loop.create_future())
        self._queue.put_nowait(asked)
        return await asked.answer

    async def run(self) -> None:
        """Classify what comes, for good."""
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._queue.get()]
            while len(batch) < self._at_once and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            try:
                records = await loop.run_in_executor(self._network, self._classify, batch)
            except Exception as error:  # whoever asked is told; the next batch may do
                for asked in batch:
                    if not asked.answer.done():
                        asked.answer.set_exception(error)
                continue
            for asked, record in zip(batch, records, strict=True):
                if not asked.answer.done():  # its request may have been cancelled
                    asked.answer.set_result(record)

    def compile_first(self) -> None:
        """Compile what one photo needs, and find out whether there are heat maps."""
        one = self._images(1)
        self._classifier.predict(one)
        try:
            heat_maps(self._classifier, one)
        except InputError as error:
            self.why_no_heat = str(error)

    def compile_others(self) -> None:
        """Compile for 2, 4, … 32 photos at once, in a thread beside `run`; until `stop`."""
        while self._at_once < AT_ONCE and not self._stopped.is_set():
            self._classifier.predict(self._images(2 * self._at_once))
            self._at_once *= 2

    def stop(self) -> None:
        """Let the threads end."""
        self._stopped.set()
        for pool in (self._decoders, self._network):
            pool.shutdown(wait=False, cancel_futures=True)

    def _images(self, count: int) -> np.ndarray:
        size = self._classifier.image_size
        return np.zeros((count, size, size, 3), np.uint8)

    def _classify(self, batch: list[_Asked]) -> list[dict[str, Any]]:
        images = np.stack([asked.pixels for asked in batch])
        records = self._classifier.predict(images, [asked.name for asked in batch]).records()
        explained = [index for index, asked in enumerate(batch) if asked.explain]
        if explained:
            maps = heat_maps(self._classifier, images[explained])
            for index, heat in zip(explained, maps, strict=True):
                records[index]["heat_map"] = picture(heat)
        return records
