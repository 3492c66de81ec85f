"""Random damage to photos and weight files: no case may crash, hang or be silently wrong.

A case passes if the library gives a right answer or raises InputError.

Slow: hundreds of cases. Every run tries the same ones. To try ten times as many, and
other ones each time:

    CATDOG_FUZZ=10 pytest tests/test_fuzz.py
"""

import contextlib
import faulthandler
import io
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import jax
import keras_reference as reference
import numpy as np
import pytest
from flax import nnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from catdog_jax.data import photo
from catdog_jax.errors import InputError, RunError
from catdog_jax.models.keras_weights import keras_variables, load_keras_weights
from catdog_jax.models.mobilenet_v2 import MobileNetV2

pytestmark = [reference.ignore_keras_warnings, pytest.mark.slow]

SIZE = 32
LIMIT = 30
"""Seconds for one case."""
AT_LEAST = 300
"""Cases in a run of this whole file."""

MORE = int(os.environ.get("CATDOG_FUZZ", "0"))
KINDS = ("images", "weight files")
TALLY: Counter[str] = Counter()
ANSWERED: Counter[str] = Counter()
"""How many of them were read: if all are refused, the test shows nothing."""


def cases(count: int) -> settings:
    """Settings of hypothesis: `count` cases, always the same ones unless CATDOG_FUZZ is set."""
    return settings(
        max_examples=count * max(1, MORE),
        derandomize=not MORE,
        database=None,
        deadline=None,  # `case` ends a hanging one
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
            HealthCheck.large_base_example,
        ],
    )


@contextlib.contextmanager
def case(kind: str) -> Iterator[Path]:
    """Count a case, give it a folder, and end it if it hangs."""
    TALLY[kind] += 1
    # The signal ends Python code; if C code hangs, the process ends with a traceback.
    faulthandler.dump_traceback_later(2 * LIMIT, exit=True, file=TERMINAL[0])
    signal.setitimer(signal.ITIMER_REAL, LIMIT)
    try:
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            yield Path(folder)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()


TERMINAL: list[Any] = []


@pytest.fixture(scope="module", autouse=True)
def _watched(request: pytest.FixtureRequest) -> Iterator[None]:
    """End hanging cases, refuse the network, and print how many cases there were."""

    def hangs(*_: object) -> None:
        pytest.fail(f"a case took more than {LIMIT} s")

    def refuse(*_: object, **__: object) -> None:
        raise socket.gaierror("no network in tests")

    capture: Any = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        TERMINAL.append(os.fdopen(os.dup(2), "w"))
    before = signal.signal(signal.SIGALRM, hangs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", refuse)
        yield
    signal.signal(signal.SIGALRM, before)
    TERMINAL.pop().close()
    tally = ", ".join(f"{TALLY[kind]} {kind}" for kind in KINDS if TALLY[kind])
    with capture.global_and_fixture_disabled():
        print(f"\nfuzzed: {tally}; {TALLY.total()} cases, {ANSWERED.total()} of them read")


def read_or_refused(kind: str, read: Callable[[], Any]) -> Any:
    """What `read` returns; None if it refuses."""
    try:
        result = read()
    except (InputError, RunError):
        return None
    ANSWERED[kind] += 1
    return result


# Damage.

PLACES = st.one_of(st.integers(0, 80), st.integers(0, 2**24))
BEGINNINGS = [
    *(b"PK\x03\x04", b"PK\x05\x06", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"BM"),
    *(b"\x89HDF\r\n\x1a\n", b"\x93NUMPY\x01\x00", b"<html>", b"\x80\x04.", b"\x00" * 8),
    *(b"\xff" * 8, b"\xff" * 4, b"\x7f\xff\xff\xff", b"NaN", b"\n", b"{", b"-1"),
]
BYTES = st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from(BEGINNINGS))
HITS = st.lists(
    st.tuples(st.sampled_from(["write", "flip", "insert", "cut", "end"]), PLACES, BYTES),
    min_size=1,
    max_size=4,
)
Hits = list[tuple[str, int, bytes]]


def hit(content: bytes, hits: Hits) -> bytes:
    """`content` with bytes overwritten, flipped, inserted or removed, or its end cut off."""
    result = bytearray(content)
    for kind, where, extra in hits:
        at = where % max(1, len(result))
        if kind == "write":
            result[at : at + len(extra)] = extra
        elif kind == "flip":
            result[at : at + 1] = bytes(byte ^ extra[0] for byte in result[at : at + 1])
        elif kind == "insert":
            result[at:at] = extra
        elif kind == "cut":
            del result[at : at + len(extra)]
        else:
            del result[at:]
    return bytes(result)


# Images.


@dataclass(frozen=True)
class Picture:
    kind: str
    mode: str
    width: int
    height: int
    seed: int
    variant: bool

    def encoded(self) -> bytes:
        rng = np.random.default_rng(self.seed)
        if self.mode == "I;16":
            image = Image.fromarray(rng.integers(0, 2**16, (self.height, self.width), np.uint16))
        else:
            channels = 4 if self.mode == "RGBA" else 3
            pixels = rng.integers(0, 256, (self.height, self.width, channels), np.uint8)
            image = Image.fromarray(pixels)
            image = image if image.mode == self.mode else image.convert(self.mode)
        options: dict[str, Any] = {}
        if self.kind == "JPEG":
            exif = Image.Exif()
            exif[0x0112] = 1 + self.seed % 8  # the orientation
            options = {"progressive": self.variant, "quality": 20 + self.seed % 80, "exif": exif}
        elif self.kind == "GIF" and self.variant:
            options = {"save_all": True, "append_images": [image.rotate(90), image.rotate(180)]}
        file = io.BytesIO()
        image.save(file, self.kind, **options)
        return file.getvalue()


SIDES = st.one_of(st.just(SIZE), st.integers(1, 70))
MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "GIF": ("L", "P"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
}
PICTURES = st.sampled_from([(kind, mode) for kind in MODES for mode in MODES[kind]]).flatmap(
    lambda kind: st.builds(
        Picture, *map(st.just, kind), SIDES, SIDES, st.integers(0, 999), st.booleans()
    )
)


def by_tensorflow(encoded: bytes) -> np.ndarray | None:
    """A photo as the post reads it; None if TensorFlow cannot."""
    import tensorflow as tf  # conftest has imported it

    try:
        image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
        return tf.image.resize(image, (SIZE, SIZE)).numpy()
    except tf.errors.OpError:
        return None


def upright(encoded: bytes, pixels: np.ndarray) -> np.ndarray:
    """The square, turned by the orientation in the photo's EXIF data."""
    return photo.upright(pixels, photo.read_header(encoded).orientation)


def decoded(path: Path, encoded: bytes) -> np.ndarray | None:
    path.write_bytes(encoded)
    pixels = read_or_refused("images", lambda: photo.decode_file(path, SIZE))
    if pixels is not None:
        assert (pixels.dtype, pixels.shape) == (np.uint8, (SIZE, SIZE, 3))
    return pixels


@cases(100)
@given(picture=PICTURES)
def test_a_picture_is_read_as_by_tensorflow(picture: Picture) -> None:
    with case("images") as folder:
        encoded = picture.encoded()
        expected, pixels = by_tensorflow(encoded), decoded(folder / "photo", encoded)
        if picture.kind in ("JPEG", "PNG", "GIF") and expected is not None:
            assert pixels is not None
            assert np.abs(pixels - upright(encoded, expected)).max() <= 0.5


@cases(200)
@given(picture=PICTURES, hits=HITS)
def test_a_damaged_picture_is_refused_or_read_as_by_tensorflow(
    picture: Picture, hits: Hits
) -> None:
    with case("images") as folder:
        encoded = hit(picture.encoded(), hits)
        pixels, expected = decoded(folder / "photo.jpg", encoded), by_tensorflow(encoded)
        # Pillow reads damaged files that TensorFlow does not; CMYK can lose its Adobe marker.
        if picture.kind == "JPEG" and picture.mode != "CMYK" and pixels is not None:
            assert expected is not None
            assert np.abs(pixels - upright(encoded, expected)).max() <= 0.5


# Weight files.


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MobileNetV2 as Keras saves it."""
    path = tmp_path_factory.mktemp("weights") / "keras.h5"
    reference.mobilenet(0.35, (SIZE, SIZE)).save(path)
    return path


def datasets_of(file: h5py.File) -> dict[str, np.ndarray]:
    """The arrays in an HDF5 file, by their paths."""
    found: dict[str, np.ndarray] = {}

    def note(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset):
            found[name] = np.asarray(node)

    file.visititems(note)
    return found


@pytest.fixture(scope="module")
def empty() -> MobileNetV2:
    return reference.blank(MobileNetV2, 0.35)


def filled(empty: MobileNetV2, path: Path) -> dict[str, np.ndarray] | None:
    """The weights read from a file, by their names in Keras."""
    model = nnx.clone(empty)
    loaded = read_or_refused("weight files", lambda: load_keras_weights(model, path) or True)
    if loaded is None:
        for leaf in jax.tree.leaves(nnx.to_pure_dict(nnx.state(model))):
            assert np.isnan(leaf).all()  # unchanged
        return None
    return {name: np.asarray(variable[...]) for name, variable in keras_variables(model).items()}


TENSOR_EDITS = [
    *("remove", "rename", "swap", "turn", "flatten", "cut", "extra", "group", "compressed"),
    *("nan", "-inf", "1e300", "float64", "float16", "int8", "bool", "complex", "text"),
    *("empty", "scalar", "nothing"),
]


def edit_tensor(file: h5py.File, name: str, other: str, edit: str) -> None:
    array, its_pair = np.asarray(file[name]), np.asarray(file[other])
    spoilt = np.array(array, np.float64)
    if edit in ("-inf", "1e300"):
        spoilt.flat[spoilt.size // 2] = float(edit)
    single = np.array(array)
    single.flat[0] = np.nan
    del file[name]
    if edit == "group":
        file.create_group(name)
    elif edit == "compressed":
        file.create_dataset(name, data=array, compression="gzip", shuffle=True)
    elif edit in ("rename", "extra"):
        file[f"{name}_2"] = array
    elif edit == "swap" and other != name:
        del file[other]
        file[other] = array
    instead: dict[str, Any] = {
        **{"nothing": array, "extra": array, "swap": its_pair, "turn": array.T},
        **{"flatten": array.ravel(), "cut": array[1:], "scalar": 1.0, "text": "text"},
        **{"float16": np.asarray(array, np.float16), "int8": np.asarray(array, np.int8)},
        **{"bool": array > 0, "complex": np.asarray(array, np.complex64)},
        **{"empty": h5py.Empty("f4"), "float64": spoilt, "1e300": spoilt},
        **{"nan": single, "-inf": spoilt},
    }
    if edit in instead:
        file[name] = instead[edit]


@cases(80)
@given(
    which=st.integers(0, 10**6),
    other=st.integers(0, 10**6),
    edit=st.sampled_from(TENSOR_EDITS),
)
def test_a_weight_file_with_other_tensors_is_refused_or_read_as_it_is(
    which: int, other: int, edit: str, whole: Path, empty: MobileNetV2
) -> None:
    with case("weight files") as folder:
        path = folder / "weights.h5"
        shutil.copy(whole, path)
        with h5py.File(path, "r+") as file:
            names = list(datasets_of(file))
            edit_tensor(file, names[which % len(names)], names[other % len(names)], edit)
        weights = filled(empty, path)
        if edit == "nothing":
            assert weights is not None
        if weights is None:
            return
        there = {}
        with h5py.File(path) as file:
            for name, array in datasets_of(file).items():
                layer, variable = name.split("/")[-2:]
                turned = array.swapaxes(2, 3) if layer.endswith("depthwise") else array
                there[f"{layer}/{variable}"] = np.asarray(turned, np.float32)
        assert weights.keys() == there.keys()
        for name, tensor in weights.items():
            assert np.isfinite(tensor).all()
            np.testing.assert_array_equal(tensor, there[name], err_msg=name)


def test_enough_cases_were_tried_and_not_all_refused(request: pytest.FixtureRequest) -> None:
    module = sys.modules[__name__]
    here = {item.originalname for item in request.session.items if item.module is module}  # pyright: ignore
    tests = {name for name in vars(module) if name.startswith("test_")}
    if here != tests:
        pytest.skip(f"only part of this file was run, so its cases are not counted: {TALLY}")
    assert set(TALLY) == set(KINDS)
    assert TALLY.total() >= AT_LEAST
    for kind in KINDS:
        assert 0 < ANSWERED[kind] < TALLY[kind], kind
