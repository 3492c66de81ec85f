"""Every Python block and every command of the README and of docs/ runs, on a few drawings."""

import re
import runpy
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import networks
import pytest
import uvicorn
from flax import nnx
from PIL import Image

from catdog_jax.cli import main
from catdog_jax.commands import photos
from catdog_jax.data import load, sketches
from catdog_jax.data.load import load_data
from catdog_jax.data.splits import Splits
from catdog_jax.models import create
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


# Options for commands that train all models.
SMALLER = {
    "demo": ["--epochs", "1", "--image-size", "32", "--sizes", "20", "8", "4"],
    "reproduce": ["--models", "model3"],
}


def write_photos(folder: Path) -> None:
    (folder / "my_photos").mkdir()
    for index, image in enumerate(sketches.draw(4, 40)[0]):
        Image.fromarray(image).save(folder / "my_photos" / f"{index}.jpg")
        Image.fromarray(image).save(folder / "photo.jpg")


def drawings(source: str, image_size: int = 32, *_: object, **options: Any) -> Splits:
    """Stands for `load_data` of a known source."""
    del options
    assert source in (*NAMES, "sketches")
    return load_data("sketches", image_size, sizes=(20, 8, 4))


@pytest.mark.slow
def test_the_commands_of_the_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, since later ones use the runs of earlier ones. Slow: there are many.

    Networks and recipes are small, since other tests train the real ones.
    """
    few = {"image_size": 32, "weights": "none", "model_options": (), "epochs": 2}
    small = {name: replace(recipe, **few) for name, recipe in recipes.RECIPES.items()}
    for module in (recipes, reproduce, photos):
        monkeypatch.setattr(module, "RECIPES", small)
    monkeypatch.setattr(build, "MODELS", dict.fromkeys(small, networks.TwoParts))
    for module in (load, build):
        monkeypatch.setattr(module, "load_data", drawings)
    monkeypatch.setattr(uvicorn.Server, "run", lambda *_, **__: None)  # it would wait for Ctrl-C
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path)
    for arguments in commands():
        assert main([*arguments, *SMALLER.get(arguments[0], [])]) == 0, arguments


@pytest.mark.parametrize("code", blocks("python"))
def test_a_python_block_of_the_readme_runs(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On drawings, with small networks for one epoch."""

    def small_network(name: str, **options: Any) -> nnx.Module:
        create_model(name, **{"image_size": 32, **options})  # the block's arguments are right
        return networks.Linear(rngs=nnx.Rngs(0))

    create_model = create.create_model
    monkeypatch.setattr(create, "create_model", small_network)
    monkeypatch.setattr(load, "load_data", drawings)
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path)
    exec(re.sub(r"\bepochs=\d+", "epochs=1", code), {})


def test_the_page_of_public_names_is_current() -> None:
    made = runpy.run_path(str(ROOT / "docs/make_api.py"))
    assert made["PAGE"].read_text("utf-8") == made["page"](), "run: python docs/make_api.py"
