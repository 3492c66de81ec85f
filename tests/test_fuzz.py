"""Random damage to all that the package reads; no case may crash, hang or be silently wrong.

A case ends well where the library gives a right answer, or raises InputError or RunError, and where
the command line exits with 0, or with 1 or 2 after one line that begins with `error:`.

Every run tries the same cases. More of them, and others each time, ten times as many for instance:

    CATDOG_FUZZ=10 pytest tests/test_fuzz.py
"""

import contextlib
import faulthandler
import functools
import io
import itertools
import json
import math
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import typing
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
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

from catdog_jax import cli
from catdog_jax.data import decode
from catdog_jax.data.load import Split, Splits, load_data
from catdog_jax.errors import InputError, RunError
from catdog_jax.models.create import MobileNetV2, load_keras_weights
from catdog_jax.models.keras_weights import _variables
from catdog_jax.reports.report import COLUMNS
from catdog_jax.runs import runner as experiment_module
from catdog_jax.runs.build import load_splits
from catdog_jax.runs.recipes import RECIPES, Experiment
from catdog_jax.runs.reproduce import summarize
from catdog_jax.runs.run_folder import Run, is_finished, load_run
from catdog_jax.runs.runner import load_model, resume, run

pytestmark = reference.ignore_keras_warnings

SIZE = 32
LIMIT = 30
"""Seconds, for one case."""
AT_LEAST = 500
"""Cases, in a run of this whole file."""

MORE = int(os.environ.get("CATDOG_FUZZ", "0"))
KINDS = ("images", "folders", "archives", "weight files", "run folders", "prepared folders")
KINDS += ("command lines",)
TALLY: Counter[str] = Counter()
ANSWERED: Counter[str] = Counter()
"""How many of them were read rather than refused: a fuzzer that is always refused tells nothing."""


def cases(count: int) -> settings:
    """How hypothesis is to try a test: `count` cases, always the same ones unless asked."""
    return settings(
        max_examples=count * max(1, MORE),
        derandomize=not MORE,
        database=None,
        deadline=None,  # measured by `case`, which does not wait for a hanging one to end
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
            HealthCheck.large_base_example,
        ],
    )


@contextlib.contextmanager
def case(kind: str) -> Iterator[Path]:
    """Count a case, give it a folder, and end it where it hangs."""
    TALLY[kind] += 1
    # The signal ends Python code; hanging C code is ended with the process, and shown.
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
    """Hangs are ended, nothing reaches the network, and at the end the cases are counted."""

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
    """What `read` gives; None where it refuses."""
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

JUNK: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-2, 70),
        st.sampled_from([2**31, 2**32, 2**63, 2**64, 10**30, -(2**31), 10**300]),
        st.floats(),
        st.sampled_from([0.5, 32.0, "", "0", "32", "nan", "model1", "float8", "a\nb", "\udcff"]),
        st.text(max_size=5),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=4,
)
EDITS = st.lists(
    st.tuples(st.sampled_from(["set", "drop", "add", "swap"]), st.integers(0, 1000), JUNK),
    min_size=1,
    max_size=3,
)
WHOLE = [
    *(b"", b"\x00", b"[]", b"{}", b"null", b"0", b'"text"', b"\xff\xfe{}", b"\xef\xbb\xbf{}"),
    *(b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5000, b"1e999", b"NaN", b"<html></html>"),
]


def hit(content: bytes, hits: Hits, places: Sequence[int] | None = None) -> bytes:
    """`content` with bytes written over, flipped, put in, cut out, or its end cut off.

    `places` are those to choose from; by default, all.
    """
    result = bytearray(content)
    for kind, where, extra in hits:
        at = places[where % len(places)] if places else where % max(1, len(result))
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


def edited(content: Any, edits: list[tuple[str, int, Any]]) -> Any:
    """A JSON value with values in it replaced, removed, added or changed for another of its own."""
    content = json.loads(json.dumps(content))
    for kind, where, junk in edits:
        nodes = list(nodes_of(content))
        if not nodes:
            return junk
        container, key = nodes[where % len(nodes)]
        if kind == "drop":
            del container[key]
        elif kind == "swap":
            other, its_key = nodes[(7 * where + 3) % len(nodes)]
            container[key] = json.loads(json.dumps(other[its_key]))
        elif kind == "add" and isinstance(container, dict):
            container[f"{key}s"] = junk
        elif kind == "add":
            container.insert(key, junk)
        else:
            container[key] = junk
    return content


def nodes_of(content: Any) -> Iterator[tuple[Any, Any]]:
    """Every value in a JSON value, as what holds it and its key there."""
    if isinstance(content, (dict, list)):
        for key in list(content) if isinstance(content, dict) else range(len(content)):
            yield content, key
            yield from nodes_of(content[key])


DAMAGE = st.tuples(
    st.sampled_from(["json"] * 5 + ["bytes"] * 4 + ["whole", "missing", "folder"]),
    EDITS,
    HITS,
    st.integers(0, len(WHOLE) - 1),
)
Damage = tuple[str, list[tuple[str, int, Any]], Hits, int]


def spoil(path: Path, damage: Damage) -> None:
    """Damage a file: as JSON if it is that, as bytes, or altogether."""
    kind, edits, hits, instead = damage
    content = path.read_bytes()
    if kind == "json":
        try:
            path.write_text(json.dumps(edited(json.loads(content), edits)), "utf-8")
        except ValueError:  # it is no JSON
            kind = "bytes"
    if kind == "bytes":
        path.write_bytes(hit(content, hits))
    elif kind == "whole":
        path.write_bytes(WHOLE[instead])
    elif kind != "json":
        path.unlink()
        if kind == "folder":
            path.mkdir()


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
    """A photo as the post reads it; None where TensorFlow cannot."""
    import tensorflow as tf  # conftest has imported it

    try:
        image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
        return tf.image.resize(image, (SIZE, SIZE)).numpy()
    except tf.errors.OpError:
        return None


def decoded(path: Path, encoded: bytes) -> np.ndarray | None:
    path.write_bytes(encoded)
    pixels = read_or_refused("images", lambda: cli.decode_file(path, SIZE))
    if pixels is not None:
        assert (pixels.dtype, pixels.shape) == (np.uint8, (SIZE, SIZE, 3))
    return pixels


@cases(100)
@given(picture=PICTURES)
def test_a_picture_is_read_as_tensorflow_reads_it(picture: Picture) -> None:
    with case("images") as folder:
        encoded = picture.encoded()
        expected, pixels = by_tensorflow(encoded), decoded(folder / "photo", encoded)
        assert (pixels is None) == (expected is None)
        if pixels is not None:
            assert np.abs(pixels - expected).max() <= 0.5
        if pixels is not None and picture.kind == "PNG" and picture.mode != "I;16":
            with Image.open(io.BytesIO(encoded)) as image:
                exact = np.asarray(image.convert("RGB"))
            if exact.shape == pixels.shape:
                np.testing.assert_array_equal(pixels, exact)


@cases(200)
@given(picture=PICTURES, hits=HITS)
def test_a_damaged_picture_is_refused_or_read_as_tensorflow_reads_it(
    picture: Picture, hits: Hits
) -> None:
    with case("images") as folder:
        encoded = hit(picture.encoded(), hits)
        pixels = decoded(folder / "photo.jpg", encoded)
        if decode._too_large(encoded):
            assert pixels is None
            return
        expected = by_tensorflow(encoded)
        assert (pixels is None) == (expected is None)
        if pixels is not None:
            assert np.abs(pixels - expected).max() <= 0.5


# Folders and archives.


@functools.cache
def flat_photo(number: int) -> bytes:
    """A photo whose one colour tells its number."""
    file = io.BytesIO()
    Image.new("RGB", (3, 2), color_of(number)).save(file, "PNG")
    return file.getvalue()


def color_of(number: int) -> tuple[int, int, int]:
    return number, 255 - number, 7


@dataclass(frozen=True)
class Tree:
    """Files by their paths, None for an empty folder; and what is to be found in them."""

    files: dict[str, bytes | None]
    photos: dict[str, int]
    """The numbers of the good photos, by the names that they should be given."""
    broken: frozenset[str]
    classes: tuple[str, ...]

    def written(self, folder: Path) -> Path:
        for name, content in self.files.items():
            path = folder / name
            (path if content is None else path.parent).mkdir(parents=True, exist_ok=True)
            if content is not None:
                path.write_bytes(content)
        return folder

    def zipped(self, compression: int) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", compression) as archive:
            for name, content in self.files.items():
                archive.writestr(name if content is not None else f"{name}/", content or b"")
        return file.getvalue()


FOLDERS = st.one_of(
    st.sampled_from(["cats", "dogs", "birds", "Ω", "a b", "-x", "~", "x.jpg", "new\nline"]),
    st.sampled_from(["train", "validation", "test", "all", ".hidden", "__MACOSX"]),
    st.text(st.characters(codec="utf-8", exclude_characters="/\\:\0"), min_size=1, max_size=8),
).filter(lambda name: name not in (".", ".."))
STEMS = st.sampled_from(["cat", "a b", "ünï🐱", "-x", "a.b", "~", "x" * 60, "new\nline", "%s{}"])
SUFFIXES = st.sampled_from([".jpg", ".jpeg", ".png", ".PNG", ".Gif", ".bmp"])
BROKEN = [b"", b"text", b"<html></html>", b"GIF89a", b"\xff\xd8\xff\xe0", flat_photo(0)[:40]]
STRAYS = ["Thumbs.db", ".hidden.png", "notes.txt", "photo.jpg.part"]


@st.composite
def trees(draw: Callable[[st.SearchStrategy[Any]], Any]) -> Tree:
    def alike(name: str) -> str:
        return unicodedata.normalize("NFC", name).casefold()  # on some systems one file

    given = ["train", "validation", "test"]
    parts = draw(st.sampled_from([[""], [""], given[:2], given]))
    classes = draw(st.lists(FOLDERS, min_size=1, max_size=4, unique_by=alike))
    wraps = draw(st.lists(FOLDERS, max_size=2))
    seen = tuple(sorted(name for name in classes if name[0] != "." and name != "__MACOSX"))
    files: dict[str, bytes | None] = {}
    photos: dict[str, int] = {}
    broken = []
    numbers = itertools.count()
    for part, class_name in itertools.product(parts, classes):
        folder = "/".join([part, class_name] if part else [class_name])
        above = "/".join([*wraps, folder])
        for _ in range(draw(st.integers(2, 7))):
            number = next(numbers)
            name = f"{draw(STEMS)}{number}{draw(SUFFIXES)}"
            damage = draw(st.integers(0, 24))
            files[f"{above}/{name}"] = (
                BROKEN[damage] if damage < len(BROKEN) else flat_photo(number)
            )
            if class_name in seen and damage < len(BROKEN):
                broken.append(f"{folder}/{name}")
            elif class_name in seen:
                photos[f"{folder}/{name}"] = number
        if draw(st.booleans()):
            files[f"{above}/{draw(st.sampled_from(STRAYS))}"] = b"x"
    if draw(st.integers(0, 5)) == 0:
        files["/".join([*wraps, draw(FOLDERS)])] = None
    return Tree(files, photos, frozenset(broken), seen)


def splits_of(loaded: Splits) -> list[Split]:
    return [loaded.train, loaded.validation, loaded.test]


def assert_whole(loaded: Splits) -> list[tuple[str, int, np.ndarray]]:
    """Every photo once, or skipped, each with its own label; gives names, labels and photos."""
    found = []
    for split in splits_of(loaded):
        assert split.images.shape == (len(split), SIZE, SIZE, 3)
        assert len(split.names) == len(split)
        found += zip(split.names, split.labels.tolist(), split.images, strict=True)
    names = [name for name, _, _ in found] + [skipped.name for skipped in loaded.skipped]
    assert len(set(names)) == len(names)
    for name, label, _ in found:
        assert name.split("/")[-2] == loaded.class_names[label]
    return found


def load(source: Path) -> Splits:
    return load_data(source, SIZE, cache_dir=source.parent / "cache")


@cases(80)
@given(tree=trees(), deflated=st.booleans())
def test_a_tree_of_photos_is_read_whole_or_refused(tree: Tree, deflated: bool) -> None:
    with case("folders") as folder:
        loaded = read_or_refused("folders", lambda: load(tree.written(folder / "photos")))
        if loaded is not None:
            found = assert_whole(loaded)
            assert {name for name, _, _ in found} == set(tree.photos)
            assert {skipped.name for skipped in loaded.skipped} == tree.broken
            assert loaded.class_names == tree.classes
            for name, _, image in found:
                assert (image == color_of(tree.photos[name])).all()
    with case("archives") as folder:
        (folder / "photos.zip").write_bytes(tree.zipped(8 if deflated else 0))
        archived = read_or_refused("archives", lambda: load(folder / "photos.zip"))
        assert (archived is None) == (loaded is None)
        if archived is not None and loaded is not None:
            assert archived.skipped == loaded.skipped
            pairs = zip(splits_of(archived), splits_of(loaded), strict=True)
            assert all(one.names == other.names for one, other in pairs)
            for name, _, image in assert_whole(archived):
                assert (image == color_of(tree.photos[name])).all()


@functools.cache
def archive_of(compression: int) -> tuple[bytes, tuple[int, ...], dict[str, int]]:
    """A zip, the places in it that are no file's content, and the numbers of its photos."""
    names = [f"photos/{part}/{index}.png" for part in ("cats", "dogs") for index in range(8)]
    photos = {name: number for number, name in enumerate(names)}
    files: dict[str, bytes | None] = {name: flat_photo(photos[name]) for name in names}
    content = Tree(files, {}, frozenset(), ()).zipped(compression)
    inside: set[int] = set()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for entry in archive.infolist():
            start = entry.header_offset + 30 + len(entry.filename)
            inside |= set(range(start, start + entry.compress_size))
    places = tuple(sorted(set(range(len(content))) - inside))
    return content, places, {name.removeprefix("photos/"): photos[name] for name in names}


@cases(120)
@given(
    compression=st.sampled_from([0, 8, 12, 14]),
    hits=HITS,
    outside=st.integers(0, 3),
)
def test_a_damaged_archive_is_read_whole_or_refused(
    compression: int, hits: Hits, outside: int
) -> None:
    content, places, photos = archive_of(compression)
    with case("archives") as folder:
        path = folder / "photos.zip"
        path.write_bytes(hit(content, hits, places if outside else None))
        loaded = read_or_refused("archives", lambda: load(path))
        if loaded is not None:
            for name, _, image in assert_whole(loaded):
                if name in photos:
                    assert (image == color_of(photos[name])).all()


# Weight files.


@dataclass(frozen=True)
class WeightFile:
    content: bytes = field(repr=False)
    structure: tuple[int, ...] = field(repr=False)
    """The places in it that are no tensor's numbers."""
    tensors: dict[str, str] = field(repr=False)
    """Where in it a tensor of the network is, by its name in Keras."""


@pytest.fixture(scope="module")
def weight_files(
    tmp_path_factory: pytest.TempPathFactory, empty: MobileNetV2
) -> dict[str, WeightFile]:
    folder = tmp_path_factory.mktemp("weights")
    model = reference.mobilenet(0.35, (SIZE, SIZE))
    model.save(folder / "keras.h5")
    model.save_weights(folder / "keras.weights.h5")
    model.save(folder / "keras.keras")
    files = {}
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        inside = np.zeros(len(content), bool)
        with opened(path) as file:
            found = datasets_of(file)
        if path.suffix == ".h5":
            for array, start in found.values():
                inside[start : start + array.nbytes] = True
        else:
            inside[2000:-2000] = True
        structure = tuple(np.flatnonzero(~inside).tolist())
        # All are random, so their numbers tell which is which.
        place_of = {array.tobytes(): place for place, (array, _) in found.items()}
        weights = filled(empty, path)
        assert weights is not None
        tensors = {name: place_of[tensor.tobytes()] for name, tensor in weights.items()}
        assert len(set(tensors.values())) == len(tensors)
        files[path.name] = WeightFile(content, structure, tensors)
    ANSWERED["weight files"] -= len(files)  # they are no cases
    return files


def opened(path: Path) -> h5py.File:
    """The weights in a file or in an archive."""
    if path.suffix == ".h5":
        return h5py.File(path)
    with zipfile.ZipFile(path) as archive:
        return h5py.File(io.BytesIO(archive.read("model.weights.h5")))


def datasets_of(file: h5py.File) -> dict[str, tuple[np.ndarray, int]]:
    """The arrays in an HDF5 file that can be read, and where each begins."""
    found: dict[str, tuple[np.ndarray, int]] = {}

    def note(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset):
            with contextlib.suppress(Exception):  # damaged, and not of those that were loaded
                found[name] = np.asarray(node), node.id.get_offset() or 0

    file.visititems(note)
    return found


@pytest.fixture(scope="module")
def empty() -> MobileNetV2:
    return reference.blank(MobileNetV2, 0.35)


def filled(empty: MobileNetV2, path: Path) -> dict[str, np.ndarray] | None:
    """The weights that a file gives, by their names in Keras."""
    model = nnx.clone(empty)
    loaded = read_or_refused("weight files", lambda: load_keras_weights(model, path) or True)
    if loaded is None:
        for leaf in jax.tree.leaves(nnx.to_pure_dict(nnx.state(model))):
            assert np.isnan(leaf).all()  # unchanged
        return None
    return {name: np.asarray(variable[...]) for name, variable in _variables(model).items()}


@cases(80)
@given(
    name=st.sampled_from(["keras.h5", "keras.weights.h5", "keras.keras"]),
    hits=HITS,
    outside=st.integers(0, 5),
)
def test_a_damaged_weight_file_is_refused_or_gives_what_it_holds(
    name: str,
    hits: Hits,
    outside: int,
    weight_files: dict[str, WeightFile],
    empty: MobileNetV2,
) -> None:
    with case("weight files") as folder:
        path, file = folder / name, weight_files[name]
        path.write_bytes(hit(file.content, hits, file.structure if outside else None))
        weights = filled(empty, path)
        if weights is None:
            return
        with opened(path) as open_file:
            there = {
                place: np.asarray(array, np.float32).tobytes()
                for place, (array, _) in datasets_of(open_file).items()
                if array.dtype.kind == "f"
            }
        for tensor_name, tensor in weights.items():
            assert np.isfinite(tensor).all()
            place = file.tensors[tensor_name]
            # A depthwise kernel, turned from [3, 3, n, 1] to [3, 3, 1, n], is the same bytes.
            if place in there:
                assert tensor.tobytes() == there[place], tensor_name
            else:  # what was damaged is the name of a group that is not gone by
                assert tensor.tobytes() in there.values(), tensor_name


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
def test_a_weight_file_with_other_tensors_is_refused_or_gives_what_it_holds(
    which: int, other: int, edit: str, weight_files: dict[str, WeightFile], empty: MobileNetV2
) -> None:
    with case("weight files") as folder:
        path = folder / "weights.h5"
        path.write_bytes(weight_files["keras.h5"].content)
        names = list(weight_files["keras.h5"].tensors.values())
        with h5py.File(path, "r+") as file:
            edit_tensor(file, names[which % len(names)], names[other % len(names)], edit)
        weights = filled(empty, path)
        if edit == "nothing":
            assert weights is not None
        if weights is None:
            return
        there = {}
        with h5py.File(path) as file:
            for name, (array, _) in datasets_of(file).items():
                layer, variable = name.split("/")[-2:]
                turned = array.swapaxes(2, 3) if layer.endswith("depthwise") else array
                there[f"{layer}/{variable}"] = np.asarray(turned, np.float32)
        assert weights.keys() == there.keys()
        for name, tensor in weights.items():
            assert np.isfinite(tensor).all()
            np.testing.assert_array_equal(tensor, there[name], err_msg=name)


# Run folders.

SMALL = replace(
    RECIPES["model3"], data="sketches", image_size=SIZE, sizes=(8, 6, 4), epochs=2, batch_size=4
)
BOTH = ("best", "last")


@dataclass(frozen=True)
class Finished:
    """A run, and what can be had of it."""

    out: Path
    photo: Path
    history: list[dict[str, float]]
    weights: dict[str, Any] = field(repr=False)
    evaluated: dict[str, str]
    predicted: dict[str, float]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    out = tmp_path_factory.mktemp("runs") / "model3-seed0"
    history = run(SMALL, out, log=lambda _: None).history
    photo = out.parent / "photo.png"
    photo.write_bytes(flat_photo(1))
    return Finished(
        out,
        photo,
        history,
        {which: weights_of(load_model(out, which)[0]) for which in BOTH},
        {which: command("evaluate", str(out), "--checkpoint", which)[1] for which in BOTH},
        json.loads(command("predict", str(out), str(photo), "--json")[1])["probabilities"],
    )


def weights_of(model: nnx.Module) -> Any:
    return jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model)))


@pytest.fixture(scope="module")
def _no_training(finished: Finished) -> Iterator[None]:
    """Where training would begin, the case ends."""

    def fit(*_: object, **__: object) -> None:
        raise RunError("training begins")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment_module, "fit", fit)
        yield


def command(*args: str) -> tuple[int, str, str]:
    """The exit code of a command line and what it printed; a bad end fails."""
    # As in a terminal of UTF-8, where standard output takes nothing that is not text.
    out, err = io.BytesIO(), io.BytesIO()
    by_parser = False
    with (
        contextlib.redirect_stdout(io.TextIOWrapper(out, "utf-8", write_through=True)),
        contextlib.redirect_stderr(
            io.TextIOWrapper(err, "utf-8", "backslashreplace", write_through=True)
        ),
    ):
        try:
            code: Any = cli.main(list(args))
        except SystemExit as leaving:
            code, by_parser = leaving.code, True
        printed, said = out.getvalue().decode(), err.getvalue().decode()
    assert code in (0, 1, 2)
    if code and by_parser:
        assert code == 2
        assert printed + said
    elif code == 1 and not said:
        assert args[0] == "predict"  # of several photos, some could not be read
        assert "error" in printed
    elif code:
        assert said.startswith("error: ")
        assert said.count("\n") == 1
    return code, printed, said


def assert_history(history: list[dict[str, float]]) -> None:
    assert [row["epoch"] for row in history] == list(range(1, len(history) + 1))
    for row in history:
        assert tuple(row) == COLUMNS
        assert all(type(value) in (int, float) for value in row.values())


USES = ["load_model"] * 5 + ["load_run"] * 2 + ["run", "resume", "is_finished"]
USES += ["summarize", "evaluate", "predict"]


@pytest.mark.usefixtures("_no_training")
# Of the reads that Orbax gives up, Python tells whenever it clears them away.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@cases(140)
@given(
    file=st.integers(0, 10**6),
    damage=DAMAGE,
    use=st.sampled_from(USES),
    which=st.sampled_from(BOTH),
)
def test_a_damaged_run_folder_is_refused_or_read_rightly(
    file: int, damage: Damage, use: str, which: str, finished: Finished
) -> None:
    with case("run folders") as folder:
        out = folder / finished.out.name
        shutil.copytree(finished.out, out)
        files = sorted(path for path in out.rglob("[!.]*") if path.is_file())
        files += 4 * [out / name for name in ("config.json", "history.csv", "metrics.json")]
        touched = files[file % len(files)]
        spoil(touched, damage)

        def read(reader: Callable[..., Any], *args: Any, **options: Any) -> Any:
            return read_or_refused("run folders", lambda: reader(*args, **options))

        if use == "load_model":
            if (answer := read(load_model, out, which)) is not None:
                model, experiment, names = answer
                assert experiment == SMALL
                assert names == ("cats", "dogs")
                jax.tree.map(
                    np.testing.assert_array_equal, weights_of(model), finished.weights[which]
                )
        elif use == "load_run":
            if (answer := read(load_run, out)) is not None:
                assert_history(answer.history)
                assert answer.history == finished.history
        elif use in ("run", "resume"):
            go_on = partial(run, SMALL, out) if use == "run" else partial(resume, out)
            if (answer := read(go_on, log=lambda _: None)) is not None:
                assert answer.history == finished.history
                assert answer.metrics["model"] == "model3"
        elif use == "is_finished":
            read(is_finished, out, SMALL, load_splits(SMALL))
        elif use == "summarize":
            read(summarize, folder)
        elif use == "evaluate":
            code, printed, _ = command("evaluate", str(out), "--checkpoint", which)
            ANSWERED["run folders"] += code == 0
            assert code or printed == finished.evaluated[which]
        else:
            code, printed, _ = command("predict", str(out), str(finished.photo), "--json")
            ANSWERED["run folders"] += code == 0
            assert code or json.loads(printed)["probabilities"] == finished.predicted


# Prepared folders.


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return load_data(
        "sketches", SIZE, sizes=(6, 4, 2), cache_dir=tmp_path_factory.mktemp("prepared")
    ).folder


@cases(100)
@given(file=st.integers(0, 10**6), damage=DAMAGE)
def test_a_damaged_prepared_folder_is_refused_or_whole(
    file: int, damage: Damage, prepared: Path
) -> None:
    with case("prepared folders") as folder:
        copy = folder / "prepared"
        shutil.copytree(prepared, copy)
        (copy / "notes.txt").write_text("of no account")  # else nothing damaged would be read
        names = sorted(path.name for path in copy.iterdir()) + 4 * ["meta.json", "notes.txt"]
        spoil(copy / names[file % len(names)], damage)
        loaded = read_or_refused("prepared folders", lambda: load_data(copy, SIZE))
        if loaded is None:
            return
        whole = load_data(prepared, SIZE)
        assert (loaded.class_names, loaded.skipped) == (whole.class_names, whole.skipped)
        assert (loaded.source, loaded.fingerprint) == (whole.source, whole.fingerprint)
        for one, other in zip(splits_of(loaded), splits_of(whole), strict=True):
            assert one.names == other.names
            np.testing.assert_array_equal(one.images, other.images)
            np.testing.assert_array_equal(one.labels, other.labels)


# Command lines.

WHOLE_NUMBERS = st.one_of(
    st.integers(1, 64).map(str),
    st.sampled_from(["0", "-1", "31", "32", "1000", "100000", "-2147483649"]),
    st.sampled_from([str(10**9), str(2**32), str(2**63), str(10**30), "9" * 5000]),
    st.sampled_from(["", "nan", "1.5", "1e3", "0x10", "--", "None", "１２", "\udcff"]),  # noqa: RUF001
)
NUMBERS = st.one_of(
    st.sampled_from(["0.1", "1e-3", "0.5", "0", "-0.0", "1", "1_0.5"]),
    st.sampled_from(["nan", "inf", "-inf", "1e400", "-1e-9", "1e-400", "-1", "", "x", "½"]),
)
FLAGS = st.sampled_from(["True", "False", "True", "False", "yes", "", "None"])
TYPES = st.sampled_from(["float32", "bfloat16", "float8", ""])
PATHS = st.just("a path, of those that the test knows")


@pytest.fixture(scope="module")
def places(
    tmp_path_factory: pytest.TempPathFactory, finished: Finished, prepared: Path
) -> list[str]:
    """Paths that a command line may be given: a run, a folder of photos, and others."""
    folder = tmp_path_factory.mktemp("places")
    for number in range(12):
        path = folder / "photos" / ("cats", "dogs")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(flat_photo(number))
    odd = folder / "odd"
    odd.mkdir()
    (odd / os.fsdecode(b"caf\xe9.png")).write_bytes(flat_photo(3))  # as Latin-1 has it
    (odd / "new\nline.png").write_bytes(b"")
    os.mkfifo(odd / "pipe.png")
    there = [finished.out, folder / "photos", prepared, odd, folder, *sorted(odd.iterdir())]
    others = ["nowhere", "", ".", "~no-such-user/photos", "/dev/null", "/dev/null/x", "x" * 5000]
    return [*map(str, there), *others, "\udcff", "new\nline", "a b", "-", "sketch", "none"]


def flags_of(function: Callable[..., Any]) -> dict[str, tuple[st.SearchStrategy[str], ...]]:
    """The options of a sub-command and what to give each, off its signature: none is forgotten."""
    hints = typing.get_type_hints(function)
    if "options" in hints:
        hints |= typing.get_type_hints(hints.pop("options"))
    positional = ("model", "source", "run_folder", "images", "return")
    return {
        "--" + name.strip("_").replace("_", "-"): values_of(str(hint))
        for name, hint in sorted(hints.items())
        if name not in positional
    }


def values_of(hint: str) -> tuple[st.SearchStrategy[str], ...]:
    if "int, int, int" in hint:
        return (WHOLE_NUMBERS,) * 3
    for kind, values in (("Literal", TYPES), ("bool", FLAGS), ("int", WHOLE_NUMBERS)):
        if kind in hint:
            return (values,)
    return (NUMBERS if "float" in hint else PATHS,)


@dataclass(frozen=True)
class CommandLine:
    words: list[str]
    chosen: dict[str, list[str]]
    """The values of its options; empty where a word was put in between."""


def draw_command_line(draw: Callable[[Any], Any], places: list[str]) -> CommandLine:
    # What a system can pass: no zero bytes. And no way out of the test's own folders.
    texts = st.text(st.characters(exclude_characters="\0/~."), max_size=8)
    paths = st.one_of(st.sampled_from(places), texts)
    models = st.sampled_from([*RECIPES, *RECIPES, "model9", "mobilenet_v2", "", "\udcff"])
    of_run = st.one_of(st.just(places[0]), paths)
    name = draw(st.sampled_from(["train"] * 4 + ["reproduce", "predict", *cli._COMMANDS]))
    positional = {
        "train": [models],
        "data": [paths],
        "evaluate": [of_run],
        "predict": [of_run, paths, paths],
    }.get(name, [])
    words = [name, *map(draw, positional)]
    chosen = {"--data": [places[1]]} if name == "train" and draw(st.integers(0, 3)) else {}
    flags = flags_of(cli._COMMANDS[name])
    for flag in draw(st.lists(st.sampled_from(sorted(flags)), max_size=3, unique=True)):
        chosen[flag] = [draw(paths if kind is PATHS else kind) for kind in flags[flag]]
    for flag, values in chosen.items():
        words += [flag, *values]
    if draw(st.integers(0, 9)) == 0:
        junk = st.one_of(st.sampled_from(["--", "-h", "--no-such-flag", "--epochs", ""]), texts)
        words.insert(draw(st.integers(0, len(words))), draw(junk))
        chosen = {}
    return CommandLine(words, chosen)


@pytest.fixture(scope="module")
def asked(finished: Finished) -> Iterator[list[Experiment]]:
    """Stands in for training: notes what was to be trained."""
    noted: list[Experiment] = []

    def note(experiment: Experiment, out: Path, **_: Any) -> Run:
        noted.append(experiment)
        return replace(load_run(finished.out), folder=out)

    def note_all(models: Any, seeds: Any, out: Path, *, adapt: Any, **_: Any) -> list[Run]:
        noted.extend(adapt(RECIPES[model]) for model in models if model in RECIPES)
        return []

    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.chdir(folder)
        patch.setattr(cli, "run", note)
        patch.setattr(cli, "resume_run", load_run, raising=False)
        patch.setattr(cli, "reproduce_series", note_all)
        patch.setattr(cli, "draw_data", lambda *_: None)
        yield noted


def assert_sensible(experiment: Experiment) -> None:
    assert 32 <= experiment.image_size <= 10_000
    assert 1 <= experiment.epochs <= 10**7
    assert 1 <= experiment.batch_size <= 10**5
    assert 0 < experiment.learning_rate < math.inf
    assert 0 <= experiment.rotation <= 1
    assert math.isfinite(experiment.threshold)
    for seed in (experiment.seed, experiment.split_seed):
        assert 0 <= seed < 2**32  # of a larger one JAX drops what is beyond
    assert experiment.dtype in ("float32", "bfloat16")


def as_said(word: str) -> Any:
    """What a word on a command line means, where it is no number its text."""
    words = {"True": True, "False": False}
    for read in (int, float, words.__getitem__):
        with contextlib.suppress(ValueError, KeyError):
            return read(word)
    return word


@cases(200)
@given(choice=st.data())
def test_a_command_line_is_obeyed_or_refused_in_one_line(
    choice: Any, places: list[str], asked: list[Experiment]
) -> None:
    line = draw_command_line(choice.draw, places)
    asked.clear()
    with case("command lines"):
        code, _, _ = command(*line.words)
        ANSWERED["command lines"] += code == 0
        for experiment in asked:
            assert_sensible(experiment)
            for flag, values in line.chosen.items():
                name = flag.removeprefix("--").replace("-", "_")
                # "None" leaves the recipe's value; --weights is for one of several models.
                if hasattr(experiment, name) and name != "weights" and "None" not in values:
                    there = getattr(experiment, name)
                    said = tuple(map(as_said, values)) if len(values) > 1 else as_said(values[0])
                    assert there in (said, values[0])


@pytest.mark.parametrize(
    "words",
    [
        ["--epochs", str(10**30)],
        ["--learning-rate", "nan"],
        ["--learning-rate", "inf"],
        ["--threshold", "nan"],
        ["--rotation", "inf"],
        ["--rotation", "nan"],
        ["--image-size", "100000"],
        ["--batch-size", str(10**9)],
        ["--sizes", "9", "9", "9"],
        ["--sizes", str(10**12), "1", "1"],
        ["--seed", "-1"],
        ["--seed", str(2**32)],
        ["--split-seed", "-1"],
        ["--dtype", "float8"],
    ],
    ids=" ".join,
)
def test_a_value_that_no_run_could_mean_is_refused(
    words: list[str], places: list[str], asked: list[Experiment]
) -> None:
    asked.clear()
    assert command("train", "model1", "--data", places[1], *words)[0] == 2
    assert not asked


@pytest.mark.parametrize(
    "words", [["--image-size", str(2**32)], ["--sizes", str(2**62), "1", "1"]], ids=" ".join
)
def test_drawings_that_no_memory_could_hold_are_refused(words: list[str]) -> None:
    assert command("data", "sketches", *words)[0] == 2


def test_a_series_of_more_seeds_than_anybody_could_mean_is_refused(asked: list[Experiment]) -> None:
    asked.clear()
    assert command("reproduce", "--seeds", str(10**9))[0] == 2
    assert not asked


# What it has found, in the smallest case of each.


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b"[" * 100_000),
        ("config.json", b'{"experiment": null, "data": {}}'),
        ("history.csv", b"epoch,loss\n1\n"),
        ("metrics.json", b"{}"),
    ],
)
def test_a_run_folder_that_makes_no_sense_is_refused(
    name: str, content: bytes, finished: Finished, tmp_path: Path
) -> None:
    out = tmp_path / finished.out.name
    shutil.copytree(finished.out, out)
    (out / name).write_bytes(content)
    for use in (lambda: run(SMALL, out), lambda: summarize(tmp_path)):
        with pytest.raises(InputError, match=name):
            use()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("history.csv", lambda text: text.replace("\n1,", "\n1,9")),
        ("metrics.json", lambda text: re.sub(r'"epoch": \d', '"epoch": 9', text)),
        ("metrics.json", lambda text: re.sub(r'("val_accuracy": )[\d.]+', r"\g<1>1.5", text)),
        ("metrics.json", lambda text: re.sub(r'"accuracy": [\d.]+', '"accuracy": NaN', text)),
        ("metrics.json", lambda text: text.replace('"dead": false', '"dead": true')),
    ],
)
def test_results_that_are_not_the_runs_are_refused(
    name: str, change: Callable[[str], str], finished: Finished, tmp_path: Path
) -> None:
    out = tmp_path / finished.out.name
    shutil.copytree(finished.out, out)
    before = (out / name).read_text("utf-8")
    assert change(before) != before
    (out / name).write_text(change(before), "utf-8")
    with pytest.raises(InputError, match=name):
        load_run(out)


def test_a_weights_path_that_no_system_takes_is_refused(finished: Finished, tmp_path: Path) -> None:
    config = json.loads((finished.out / "config.json").read_text())
    config["experiment"] |= {"model": "model4", "weights": "a\0b.h5"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="no weights file at"):
        resume(tmp_path)


def test_class_names_in_another_order_are_refused(finished: Finished, tmp_path: Path) -> None:
    """Or a dog would be called a cat."""
    out = tmp_path / "run"
    shutil.copytree(finished.out, out)
    config = json.loads((out / "config.json").read_text())
    config["data"]["class_names"].reverse()
    (out / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="the classes dogs, cats, its checkpoint cats, dogs"):
        load_model(out)


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("test_images.npy", b"'fortran_order'", b"'fortran_orde\0'"),  # NumPy: TokenError
        ("test_images.npy", b"\x93NUMPY", b"PK\x03\x04PY"),  # NumPy: BadZipFile
        ("meta.json", b'["cats", "dogs"]', b'["cats", null]'),
        ("meta.json", b'["cats", "dogs"]', b'["cats", "cats"]'),
        ("meta.json", b'["cats", "dogs"]', b"[" * 100_000),
    ],
)
def test_a_prepared_folder_that_makes_no_sense_is_refused(
    name: str, before: bytes, after: bytes, prepared: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "prepared"
    shutil.copytree(prepared, copy)
    content = (copy / name).read_bytes()
    assert before in content
    (copy / name).write_bytes(content.replace(before, after))
    with pytest.raises(InputError, match=name):
        load_data(copy, SIZE)


# In the end.


def test_enough_cases_were_tried_and_not_all_refused(request: pytest.FixtureRequest) -> None:
    module = sys.modules[__name__]
    here = {item.originalname for item in request.session.items if item.module is module}  # pyright: ignore
    tests = {name for name in vars(module) if name.startswith("test_")}
    if here != tests:
        pytest.skip(f"only part of this file was run, so its cases are not counted: {TALLY}")
    assert set(TALLY) == set(KINDS)
    assert TALLY.total() >= AT_LEAST
    readme = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
    assert f": {TALLY.total():,} cases, some" in readme
    for kind in KINDS:
        assert 0 < ANSWERED[kind] < TALLY[kind], kind
