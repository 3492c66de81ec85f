"""Code by name, and experiments made of it."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import optax
import pytest
from flax import nnx
from helpers import LINEAR, SETTINGS, silent, timeless

from catdog_jax.data.load import load_data
from catdog_jax.errors import InputError, RunError
from catdog_jax.runs import build, named
from catdog_jax.runs.experiment import Experiment
from catdog_jax.runs.naming import default_folder, differing, in_words
from catdog_jax.runs.recipes import RECIPES
from catdog_jax.runs.results import load_run
from catdog_jax.runs.runner import resume, run

NET = """
import jax.numpy as jnp, optax
from flax import nnx
from neighbour import WIDTH

class Net(nnx.Module):
    def __init__(self, num_classes, *, rngs, scale=1.0):
        self.body = nnx.Linear(3, WIDTH, rngs=rngs)
        self.norm = nnx.BatchNorm(WIDTH, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.head = nnx.Linear(WIDTH, num_classes, rngs=rngs)
        self.scale = scale

    def __call__(self, images):
        x = nnx.relu(self.norm(self.body(images.mean(axis=(1, 2)) / 255)))
        return self.scale * self.head(self.dropout(x))

def schedule(learning_rate, steps, steps_per_epoch):
    assert steps == 2 * steps_per_epoch
    return optax.adamw(optax.cosine_decay_schedule(learning_rate, steps))

adam = optax.adam(1e-3)

def squared(logits, labels):
    return ((logits - jnp.eye(logits.shape[1])[labels]) ** 2).sum(axis=1)

def darker(key, image):
    return image / 2

def head(path, value):
    return "head" in path

seen = []
def note(record, state):
    seen.append(record.epoch)

def broken(record, state):
    1 / 0
"""


@pytest.fixture
def net(tmp_path: Path) -> str:
    (tmp_path / "neighbour.py").write_text("WIDTH = 4\n")
    (tmp_path / "my_net.py").write_text(NET)
    return str(tmp_path / "my_net.py")


@pytest.fixture
def own(net: str) -> Experiment:
    return Experiment(
        f"{net}:Net",
        ("scale=2.0",),
        trainable=f"{net}:head",
        **{**SETTINGS, "epochs": 2},
        optimizer=f"{net}:schedule",
        loss=f"{net}:squared",
        augment=("mirror", f"{net}:darker"),
        callbacks=(f"{net}:note",),
    )


def test_a_name_is_of_a_file_or_of_a_module(net: str, tmp_path: Path) -> None:
    assert named.load(f"{net}:Net").__name__ == "Net"
    assert named.load(f"{net}:Net") is named.load(f"{net}:Net")
    assert named.load("optax:adamw") is optax.adamw
    assert str(tmp_path) not in sys.path


@pytest.mark.parametrize(
    ("code", "name", "said"),
    [
        ("", "absent.py:Net", r"absent\.py cannot be read \(No such file or directory\)"),
        ("a = 1\nb = ", "x.py:b", r"x\.py cannot be imported \(SyntaxError: .*, x\.py line 2\)"),
        ("a = 1\nb = c", "x.py:b", r"x\.py cannot be imported \(NameError: .*, x\.py line 2\)"),
        ("def f(): pass", "x.py:g", r"x\.py has no 'g'; it has: f"),
    ],
)
def test_missing_or_broken_code_is_reported_in_one_line(
    code: str, name: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "x.py").write_text(code)
    with pytest.raises(InputError, match=said) as caught:
        named.load(f"{tmp_path}/{name}")
    assert "\n" not in str(caught.value)


def test_missing_modules_are_reported() -> None:
    with pytest.raises(InputError, match="no_such_package cannot be imported"):
        named.load("no_such_package:Net")
    with pytest.raises(InputError, match=r"optax has no 'adamx'; it has: .*adamw"):
        named.load("optax:adamx")


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    small = Experiment("model3")
    for changes, said in (
        ({"optimizer": "adamm"}, "unknown optimizer 'adamm'; choose one of: adam, adamw, sgd"),
        ({"loss": "mse"}, "unknown loss 'mse'; choose one of: cross_entropy"),
        ({"augment": ("flap",)}, "unknown augmentation 'flap'; choose one of: flip, mirror, rota"),
        ({"augment": ("rotation=2",)}, "rotation takes a number from 0 to 1, as .* not '2'"),
        ({"augment": ("mixup",)}, "mixup takes a number from .*, as mixup=0.2, not ''"),
        ({"augment": ("flip=1",)}, "unknown augmentation 'flip=1'"),
        ({"callbacks": ("print",)}, "unknown callback 'print'"),
    ):
        with pytest.raises(InputError, match=said):
            build.check(replace(small, **changes))


def test_options_are_python_values() -> None:
    assert named.options(("a=1", "b = 'x=y'", "c=(1, 2)", "d=None")) == {
        "a": 1,
        "b": "x=y",
        "c": (1, 2),
        "d": None,
    }
    for wrong in ("a", "a=", "a=false", "a=__import__('os')"):
        with pytest.raises(InputError, match="is not NAME=VALUE with a Python value"):
            named.options((wrong,))


def test_a_function_is_called_with_what_its_signature_takes() -> None:
    offered = {"rngs": 1, "image_size": 2}
    for function, expected in (
        (lambda rngs: {"rngs": rngs}, {"rngs": 1}),
        (lambda **all_of_it: all_of_it, offered),
        (lambda *, image_size=0, width=3: (image_size, width), (2, 3)),
    ):
        assert named.call(function, offered, name="f") == expected
    with pytest.raises(InputError, match="f takes no argument 'depth'; it takes: width"):
        named.call(lambda width: width, {}, {"depth": 3}, name="f")
    with pytest.raises(InputError, match=r"f failed \(ZeroDivisionError: .*, test_named.py line"):
        named.call(lambda: 1 // 0, {}, name="f")


@pytest.mark.parametrize(
    ("code", "said"),
    [("def Net(): return 3", "gives a int, not an NNX"), ("Net = 3", "Net cannot be called")],
)
def test_what_is_not_a_model_is_refused(code: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text(code)
    with pytest.raises(InputError, match=said):
        build.build_model(Experiment(f"{tmp_path}/x.py:Net"), 2)


def test_own_code_is_trained_killed_resumed_and_predicts_elsewhere(
    own: Experiment, net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = run(own, tmp_path / "one", log=silent)
    assert [row["epoch"] for row in one.history] == [1, 2]
    seen = named.load(f"{net}:note").__globals__["seen"]
    assert seen == [1, 2]

    def stop(line: str) -> None:
        if line.startswith("epoch  1/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(own, tmp_path / "two", log=stop)
    monkeypatch.chdir("/")
    two = resume(tmp_path / "two", log=silent)
    assert timeless(two.history) == timeless(one.history)

    expected = one.predict(log=silent).logits
    moved = tmp_path / "elsewhere"
    (tmp_path / "one").rename(moved)
    (tmp_path / "my_net.py").write_text(NET.replace("self.scale *", "-self.scale *"))
    np.testing.assert_array_equal(load_run(moved).predict(log=silent).logits, expected)
    os.remove(tmp_path / "my_net.py")  # noqa: PTH107
    np.testing.assert_array_equal(load_run(moved).predict(log=silent).logits, expected)


def test_a_run_of_changed_code_is_not_resumed(own: Experiment, net: str, tmp_path: Path) -> None:
    own = replace(own, epochs=1, optimizer=f"{net}:adam", augment=())
    out = tmp_path / "run"
    run(own, out, log=silent)
    Path(net).write_text(NET + "\n# another")
    said = r"its my_net\.py had the fingerprint [0-9a-f]{64}, now it is [0-9a-f]{64}"
    with pytest.raises(InputError, match=f"not this run: {said}"):
        run(own, out, log=silent)
    with pytest.raises(InputError, match=f"cannot be resumed: {said}"):
        resume(out, epochs=2, log=silent)


def test_settings_of_the_schedule_are_refused_with_an_own_optimizer(own: Experiment) -> None:
    with pytest.raises(InputError, match="schedule only applies to built-in optimizers"):
        build.check(replace(own, schedule="cosine"))


def test_the_parts_to_train_are_chosen_by_name(own: Experiment, tmp_path: Path) -> None:
    trained = replace(own, trainable="head", model_options=())
    model = build.build_model(trained, 2)
    _, state, _ = nnx.split(model, build.trainable_of(trained, model), ...)
    assert {path[0] for path, _ in nnx.to_flat_state(state)} == {"head"}
    with pytest.raises(InputError, match=r"selects no parameter of Net .*its parts: body"):
        run(replace(own, trainable="haed"), tmp_path / "run", log=silent)
    assert not (tmp_path / "run").exists()


def test_balanced_class_weights_make_classes_count_the_same() -> None:
    train = load_data("sketches", 32, sizes=(48, 20, 12)).train
    chosen = [*np.flatnonzero(train.labels == 0)[:4], *np.flatnonzero(train.labels == 1)[:12]]
    few = replace(train, labels=train.labels[chosen])
    experiment = Experiment("model3", class_weights="balanced")
    assert build.class_weights(experiment, few) == (2.0, 2 / 3)
    with pytest.raises(InputError, match="no training photo of dogs"):
        build.class_weights(experiment, replace(train, labels=train.labels * 0))


@pytest.mark.parametrize(
    ("experiment", "name"),
    [
        (RECIPES["model4"], "model4-seed0"),
        (replace(RECIPES["model3"], epochs=5, seed=1), "model3-epochs5-seed1"),
        (replace(RECIPES["model1"], data="/a/my photos/"), "model1-data-my_photos-seed0"),
        (replace(RECIPES["model2"], augment=("flip",)), "model2-augment-flip-seed0"),
        (Experiment("nets/my_net.py:Net", ("width=8",)), "my_net-Net-model-options-width=8-seed0"),
        (Experiment("Net.py:Net", callbacks=("a/b.py:note",)), "Net-Net-callbacks-note-seed0"),
        (Experiment("my.nets:Net", ema=0.9), "my.nets-Net-ema0.9-seed0"),
    ],
)
def test_the_default_folder_is_named_after_what_differs_from_the_recipe(
    experiment: Experiment, name: str
) -> None:
    assert default_folder(experiment) == Path("runs") / name


def test_settings_differ_where_one_is_not_its_recipes() -> None:
    model3, model4 = RECIPES["model3"], RECIPES["model4"]
    assert differing([model3, model4, replace(model4, seed=1)]) == []
    assert differing([replace(model3, epochs=5), replace(model4, epochs=5)]) == []
    assert differing([model3, replace(model4, learning_rate=1e-3)]) == []
    assert differing([model3, replace(model4, learning_rate=1e-5)]) == ["learning_rate"]
    two = [model3, replace(model3, augment=(), batch_size=8)]
    assert differing(two) == ["batch_size", "augment"]
    assert differing([model3, replace(model4, weights="my.h5")]) == []  # model 3 has none
    assert differing([model4, replace(model4, weights="my.h5")]) == ["weights"]
    model5 = RECIPES["model5"]
    assert differing([model4, replace(model5, weights="my.h5")]) == ["weights"]
    assert differing([model4, replace(model5, head_epochs=2)]) == ["head_epochs"]
    assert differing([model3, replace(model4, trainable="last=3")]) == ["trainable"]


def test_values_are_shown_without_the_folders_of_files() -> None:
    experiment = Experiment(
        "a/net.py:Net", ("path=a/b",), data="/my/photos.zip", augment=("flip", "b/c.py:darker")
    )
    shown = {
        "model": "net.py:Net",
        "model_options": "path=a/b",
        "data": "photos.zip",
        "augment": "flip c.py:darker",
        "ema": "none",
        "learning_rate": "0.001",
        "epochs": "20",
    }
    assert {name: in_words(experiment, name) for name in shown} == shown


def test_the_default_folder_has_a_short_name() -> None:
    experiment = Experiment("model3", model_options=tuple(f"a{i}=/{i}" for i in range(99)))
    name = default_folder(experiment).name
    assert len(name) < 130
    assert "/" not in name


def test_every_built_in_choice_trains(tmp_path: Path) -> None:
    """All names at once, with a small network; the tests of training check what each does."""
    experiment = replace(
        LINEAR,
        epochs=1,
        optimizer="adamw",
        schedule="cosine",
        warmup=0.5,
        weight_decay=0.1,
        clip=1.0,
        label_smoothing=0.1,
        class_weights="balanced",
        augment=("mirror", "crop=0.5", "colour=0.2", "mixup=0.2"),
        ema=0.9,
        patience=1,
    )
    done = run(experiment, tmp_path / "run", log=silent)
    assert done.metrics is not None
    assert done.metrics["validation"]["loss"] == pytest.approx(done.history[0]["val_loss"], 1e-5)


def test_a_run_says_that_it_stopped_early(tmp_path: Path) -> None:
    lines: list[str] = []
    unmoved = replace(LINEAR, epochs=5, learning_rate=1e-9, patience=2)
    done = run(unmoved, tmp_path / "run", log=lines.append)
    assert len(done.history) == 3
    assert "stopped: no better validation accuracy for 2 epochs" in lines


def test_a_callback_that_fails_ends_the_run_in_one_line(
    own: Experiment, net: str, tmp_path: Path
) -> None:
    failing = replace(own, callbacks=(f"{net}:broken",))
    with pytest.raises(RunError) as caught:
        run(failing, tmp_path / "run", log=silent)
    said = str(caught.value)
    assert "broken failed (ZeroDivisionError: division by zero, my_net.py line " in said
    assert f"the state after epoch 1 is kept in {tmp_path / 'run'}" in said
