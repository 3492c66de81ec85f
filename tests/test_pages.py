"""The pages of runs and series: what is in them, and what of it is left without photos."""

import json
import math
import re
import shlex
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import LINEAR, SMALL, silent, write_drawings

import catdog_jax as cd
from catdog_jax.cli import main
from catdog_jax.data import load
from catdog_jax.data.photo_facts import brightness, copies_in, original_sizes
from catdog_jax.errors import InputError
from catdog_jax.reports.answers import Answers
from catdog_jax.reports.page import Page, Section, Table, Text, write_page
from catdog_jax.reports.quality_sections import certainty_section, classes_section
from catdog_jax.runs import report as end_of_run
from catdog_jax.runs.build import load_splits
from catdog_jax.runs.experiment import Experiment
from catdog_jax.runs.recipes import RECIPES
from catdog_jax.runs.results import Run
from catdog_jax.runs.run_command import command_of
from catdog_jax.runs.run_page import AtHand, write_run_page
from catdog_jax.runs.runner import run
from catdog_jax.runs.saved_answers import recorded_answers
from catdog_jax.runs.series import run_series

_EMPTY = {"meta", "img", "br", "link", "path", "use"}


class Checked(HTMLParser):
    """A page as a browser has it: elements closed in order, unique ids; and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.pictures: list[dict[str, Any]] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.html = path.read_text("utf-8")
        self.feed(self.html)
        assert self.open == []
        assert len(set(self.ids)) == len(self.ids)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        found = dict(attrs)
        self.ids += [found["id"]] if "id" in found else []
        self.pictures += [found] if tag == "img" or found.get("role") == "img" else []
        self.links += [found[name] for name in ("href", "src", "xlink:href") if name in found]
        if tag not in _EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _EMPTY:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in _EMPTY:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "svg"} & set(self.open):
            self.words.append(data)


@pytest.fixture(scope="module")
def folder(pages: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos in a folder, one of a class with a name of its own, one that cannot be read."""
    photos = tmp_path_factory.mktemp("data") / "photos"
    write_drawings(photos, {"cats": 40, "<b>dogs": 40})
    (photos / "cats/broken.png").write_text("no photo")
    return photos


@pytest.fixture(scope="module")
def finished(folder: Path) -> Run:
    experiment = replace(SMALL, data=str(folder), sizes=(48, 20, 12))
    return run(experiment, folder.parent / "runs/one", log=silent)


def test_a_finished_run_has_a_page_that_says_what_its_records_say(finished: Run) -> None:
    path = finished.folder / "report.html"
    page, metrics = Checked(path), finished.metrics
    assert metrics is not None
    test = metrics["test"]
    assert f"Right on {100 * test['accuracy']:.1f} % of the 12 test photos" in page.text
    assert f"{test['correct']} of 12" in page.text
    assert "broken.png" in page.text
    assert "<b>dogs" in page.text  # as text: were it not escaped, the tags would not match
    # Everything is inside, and every picture is described.
    assert path.stat().st_size < 2e6
    assert all(link.startswith(("#", "data:image/")) for link in page.links)
    assert not re.search(r"<script|@import|url\((?!#)", page.html)
    assert all(picture.get("alt") or picture.get("aria-label") for picture in page.pictures)
    photos = [one for one in page.pictures if "src" in one]
    held_out = finished.predict(split="validation", log=silent), finished.predict(log=silent)
    wrong = sum(int((one.classes != one.true_classes).sum()) for one in held_out)
    assert len([one for one in photos if "heat map" in one["alt"]]) == min(6, wrong) + 6
    assert f"On 32 photos it made {wrong} mistakes" in page.text
    for heading in ("Class by class", "Bright and dark", "Time, memory, device", "copies"):
        assert heading in page.text


def test_a_copied_folder_without_photos_reports_from_its_records(
    finished: Run, folder: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(finished.folder, copy)
    photos = tmp_path / "photos"
    folder.rename(photos)
    try:
        lines: list[str] = []
        path = cd.report(copy, log=lines.append)
        assert len(lines) == 1
        assert "does not exist any more; give its new path with --data" in lines[0]
        page, before = Checked(path), Checked(finished.folder / "report.html")
        assert "The photos are not at hand" in page.text
        assert "data:" not in page.html
        start, end = "Class by class From", "What it got most wrong"
        assert (
            page.text.partition(start)[2].partition(end)[0]
            == (before.text.partition(start)[2].partition(end)[0])
        )
        # With the new path it is whole again.
        assert main(["report", str(copy), "--data", str(photos)]) == 0
        assert Checked(path).text.count("hottest") == before.text.count("hottest") > 0
        other = write_drawings(tmp_path / "other", {"cats": 40, "<b>dogs": 40}, seed=1)
        with pytest.raises(InputError, match="holds other photos than"):
            cd.report(copy, data=other, log=silent)
        # Records of another epoch, or none, are made anew from photos and model.
        (copy / "predictions.npz").unlink()
        assert "its mistakes cannot be shown" in Checked(cd.report(copy, log=silent)).text
        again = Checked(cd.report(copy, data=photos, log=silent)).text
        assert again.partition(start)[2].partition(end)[0] in before.text
        (copy / "predictions.npz").write_bytes(b"PK\x03\x04 damaged")
        with pytest.raises(InputError, match=r"predictions\.npz is damaged"):
            cd.report(copy, log=silent)
    finally:
        photos.rename(folder)


def test_a_page_that_cannot_be_made_does_not_cost_the_run(
    pages: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("no ink")

    monkeypatch.setattr(end_of_run, "write_run_page", fail)
    lines: list[str] = []
    done = run(replace(LINEAR, epochs=1), tmp_path / "run", log=lines.append)
    assert done.metrics is not None
    assert [line for line in lines if "report.html" in line] == [
        "note: report.html could not be made (no ink); catdog-jax report tries again"
    ]
    # A network without a feature map has a page without heat maps.
    assert main(["report", str(tmp_path / "run")]) == 0
    assert "No heat maps: the model has no layer" in Checked(tmp_path / "run/report.html").text


def test_an_unfinished_and_a_dead_run_have_pages(
    pages: None, finished: Run, tmp_path: Path
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(finished.folder, copy)
    for name in ("metrics.json", "predictions.npz", "report.html"):
        (copy / name).unlink()
    config = json.loads((copy / "config.json").read_text())
    config["experiment"]["epochs"] = 9
    (copy / "config.json").write_text(json.dumps(config))
    page = Checked(cd.report(copy, log=silent))
    assert "Unfinished: 3 of 9 epochs. On the 20 validation photos" in page.text
    assert "Class by class" in page.text
    history = [{**row, "loss": math.log(64), "val_loss": math.log(64)} for row in finished.history]
    dead = replace(finished, history=history)
    at_hand = AtHand(finished.model, load_splits(finished.experiment))
    write_run_page(tmp_path / "dead.html", dead, recorded_answers(finished), at_hand)
    page = Checked(tmp_path / "dead.html")
    assert "This run died" in page.text
    assert "Class by class" not in page.text
    assert "Labels to check" not in page.text
    shutil.rmtree(copy / "checkpoint")
    assert "has not finished an epoch yet" in Checked(cd.report(copy, log=silent)).text


def test_a_series_has_a_page_that_compares_its_runs(
    pages: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(end_of_run, "write_run_page", lambda *_: None)
    experiments = [replace(LINEAR, learning_rate=rate, epochs=1) for rate in (1e-3, 1e-1)]
    runs = run_series(experiments, tmp_path / "series", log=silent)
    page = Checked(tmp_path / "series/report.html")
    assert page.text.startswith("2 runs: networks.py:Linear")
    answers = [
        (one.predict(split="validation", log=silent), one.predict(log=silent)) for one in runs
    ]
    right = np.array(
        [[np.mean(s.classes == s.true_classes) * len(s.names) for s in pair] for pair in answers]
    ).sum(axis=1)
    # Each run against the best, on the same 32 photos.
    assert f"{100 * (right.min() - right.max()) / 32:+.1f} points [" in page.text
    assert "learning rate 0.1, seed 0" in page.text
    for one in runs:
        assert f"{one.folder.name}/report.html" in page.links
    before = page.text
    assert main(["report", str(tmp_path / "series"), "--out", str(tmp_path / "page.html")]) == 0
    assert Checked(tmp_path / "page.html").text == before
    with pytest.raises(InputError, match="a comparison needs none"):
        cd.report(tmp_path / "series", data=tmp_path, log=silent)
    with pytest.raises(InputError, match="name a folder"):
        cd.report([])


def answers(classes: int, count: int = 300) -> Answers:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, count)
    scores = rng.random((count, classes)) + 2 * np.eye(classes)[labels] * (
        rng.random((count, 1)) < 0.8
    )
    shares = scores / scores.sum(axis=1, keepdims=True)
    unknown = np.full(count, np.nan)
    names = tuple(map(str, range(count)))
    class_names = tuple(f"class {n}" for n in range(classes))
    return Answers(names, class_names, labels, shares.argmax(axis=1), shares, unknown, unknown)


def test_many_classes_are_cut_to_the_worst() -> None:
    ten, many = answers(10), answers(1000)
    table = next(part for part in classes_section(ten, "them").parts if isinstance(part, Table))
    counts = np.array([[int(cell) for cell in row[1:]] for row in table.rows])
    assert np.trace(counts) == ten.right.sum()
    assert counts.sum() == 300
    assert "area" in str(certainty_section(ten).parts[0])
    worst = classes_section(many, "them")
    tables = [part for part in worst.parts if isinstance(part, Table)]
    assert [len(table.rows) for table in tables] == [12, 12]
    assert "No ROC curves: 1000" in str(certainty_section(many).parts)


def test_an_answer_that_is_no_class_is_told(tmp_path: Path) -> None:
    """As of the post's 64 outputs."""
    two = answers(2)
    two.predicted[:7] = 63
    table = next(part for part in classes_section(two, "them").parts if isinstance(part, Table))
    assert table.header[-1] == "for no class"
    assert sum(int(row[-1]) for row in table.rows) == 7
    assert "answer none of them" in two.answer(0)


def test_names_are_escaped(tmp_path: Path) -> None:
    hostile = '<script>alert("1")</script>\udcff\x1b'  # with a byte that is no UTF-8
    table = Table(hostile, [hostile], [[hostile, hostile]])
    page = Page(hostile, [hostile], [Text(hostile)], [Section(hostile, [table])], hostile)
    write_page(tmp_path / "page.html", page)
    html = (tmp_path / "page.html").read_text("utf-8")
    assert "<script" not in html
    assert r"\udcff\x1b" in html


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_the_command_of_a_run_repeats_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = replace(
        RECIPES[name],
        data="my photos/",
        seed=3,
        sizes=(48, 20, 12),
        learning_rate=3e-05,
        augment=("mirror", "mixup=0.2"),
        class_weights=(1.0, 2.5),
        patience=4,
        mirror_test=not RECIPES[name].mirror_test,
        ema=None,
        model_options=(),
    )
    found: list[Experiment] = []
    monkeypatch.setattr("catdog_jax.runs.build.check", lambda experiment: found.append(experiment))

    def stop(*_: Any, **__: Any) -> Any:
        raise InputError("far enough")

    monkeypatch.setattr("catdog_jax.runs.build.load_splits", stop)
    for experiment in (changed, RECIPES[name]):
        assert main(command_words(experiment)) == 2
        assert found.pop() == experiment


def command_words(experiment: Experiment) -> list[str]:
    return shlex.split(command_of(experiment))[1:]


def test_facts_about_photos(folder: Path, tmp_path: Path) -> None:
    splits = load.load_data(folder, 32, sizes=(48, 20, 12))
    names = splits.test.names
    assert original_sizes(str(folder), None, names) == dict.fromkeys(names, (32, 32))
    assert original_sizes("sketches", None, names) == {}
    expected = np.asarray(splits.test.images).mean(axis=(1, 2, 3)) / 255
    np.testing.assert_allclose(brightness(splits.test.images), expected)
    same = write_drawings(tmp_path / "same", {"cats": 20, "dogs": 20})
    shutil.copy(same / "cats/3.png", same / "cats/zz.png")
    twins = load.load_data(same, 32)
    assert ["cats/3.png", "cats/zz.png"] in (copies_in(twins) or [])
    assert copies_in(replace(twins, folder=None)) is None
