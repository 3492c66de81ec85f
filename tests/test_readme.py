"""Every Python block of the README and of docs/ runs, and every command line is one that parses."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from catdog_jax.cli import parsed
from catdog_jax.data import sketches

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
NAMES = ("cats_and_dogs_filtered", "cats_vs_dogs")


def blocks(language: str) -> list:
    found = []
    for page in PAGES:
        text = page.read_text("utf-8")
        for match in re.finditer(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            line = text.count("\n", 0, match.start()) + 2
            found.append(pytest.param(match[1], id=f"{page.name}:{line}"))
    return found


def commands() -> list:
    """Each `catdog-jax …` of a bash block, its comment left out and its folded lines joined."""
    found = []
    for block in blocks("bash"):
        text = str(block.values[0]).replace("\\\n", " ")
        for line in text.splitlines():
            for words in re.findall(r"catdog-jax [^#;&|]*", line):
                found.append(pytest.param(shlex.split(words)[1:], id=words.strip()))
    return found


def test_there_is_something_to_test() -> None:
    assert blocks("python")
    assert len(commands()) >= 5


@pytest.mark.parametrize("arguments", commands())
def test_a_command_of_the_readme_parses(arguments: list[str]) -> None:
    parsed(arguments)


# What a reader has at hand: a run, photos, a network of their own. Data sets are drawn, and small.
PREAMBLE = f"""
import catdog_jax.data.load as load
whole = load.load_data
def load_data(source, image_size=160, *args, **kwargs):
    if source in {NAMES}:
        return whole("sketches", 32, sizes=(48, 20, 12))
    return whole(source, image_size, *args, **kwargs)
load.load_data = load_data
import catdog_jax.models.create as create
plain = create.create_model
create.create_model = lambda name, **options: plain(name, **{{"image_size": 32, **options}})
"""


@pytest.mark.parametrize("code", blocks("python"))
def test_a_python_block_of_the_readme_runs(code: str, tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "my_photos").mkdir()
    for index, image in enumerate(sketches.draw(4, 40)[0]):
        Image.fromarray(image).save(tmp_path / "my_photos" / f"{index}.jpg")
        Image.fromarray(image).save(tmp_path / "photo.jpg")
    small = re.sub(r"\bepochs=\d+", "epochs=1", code)
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + small],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
