"""Every Python block and every command of the README and of docs/ runs, on a few drawings."""

import os
import re
import runpy
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from catdog_jax.cli import main
from catdog_jax.data import load, sketches
from catdog_jax.data.load import load_data
from catdog_jax.data.splits import Splits
from catdog_jax.runs import build, recipes, reproduce

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


def commands() -> list[list[str]]:
    """Each `catdog-jax …` of a bash block, its comment left out and its folded lines joined."""
    found = []
    for block in blocks("bash"):
        text = str(block.values[0]).replace("\\\n", " ")
        for line in text.splitlines():
            for words in re.findall(r"catdog-jax [^#;&|]*", line):
                found.append(shlex.split(words)[1:])
    return found


def test_there_is_something_to_test() -> None:
    assert blocks("python")
    assert len(commands()) >= 5


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


# Those that train all models, or for long.
SMALLER = {
    "demo": ["--epochs", "1", "--image-size", "32", "--sizes", "20", "8", "4"],
    "reproduce": ["--epochs", "1", "--models", "model3"],
}


def write_photos(folder: Path) -> None:
    (folder / "my_photos").mkdir()
    for index, image in enumerate(sketches.draw(4, 40)[0]):
        Image.fromarray(image).save(folder / "my_photos" / f"{index}.jpg")
        Image.fromarray(image).save(folder / "photo.jpg")


@pytest.mark.slow
def test_the_commands_of_the_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, as later ones use the runs of earlier ones."""
    small = {name: replace(recipe, image_size=32) for name, recipe in recipes.RECIPES.items()}
    for module in (recipes, reproduce):
        monkeypatch.setattr(module, "RECIPES", small)

    def drawings(source: str, image_size: int = 160, *_: object, **options: Any) -> Splits:
        assert source in (*NAMES, "sketches")
        return load_data("sketches", image_size, sizes=(20, 8, 4))

    for module in (load, build):
        monkeypatch.setattr(module, "load_data", drawings)
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path)
    for arguments in commands():
        assert main([*arguments, *SMALLER.get(arguments[0], [])]) == 0, arguments


@pytest.mark.parametrize("code", blocks("python"))
def test_a_python_block_of_the_readme_runs(code: str, tmp_path: Path) -> None:
    write_photos(tmp_path)
    small = re.sub(r"\bepochs=\d+", "epochs=1", code)
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + small],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_page_of_public_names_is_current() -> None:
    made = runpy.run_path(str(ROOT / "docs/make_api.py"))
    assert made["PAGE"].read_text("utf-8") == made["page"](), "run: python docs/make_api.py"
