"""The same seed is the same training, bit for bit; on other devices and as a scan, up to rounding.

Elsewhere: a scan in float64 (test_loop.py); whole run folders (test_interruption.py).
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import Residual
from steps import mesh_of

from catdog_jax.data import sketches
from catdog_jax.data.splits import Split
from catdog_jax.models import mobilenet_v2
from catdog_jax.models.create import create_model
from catdog_jax.training.augment import random_flip, random_rotation
from catdog_jax.training.loop import fit
from catdog_jax.training.optimizers import keras_adam
from catdog_jax.training.state import TrainState

MODELS: dict[str, Callable[[nnx.Rngs], nnx.Module]] = {
    **{
        name: lambda rngs, name=name: create_model(name, rngs=rngs, image_size=32, blog_logits=True)
        for name in ("model1", "model2", "model3")
    },
    "model4": lambda rngs: create_model("model4", rngs=rngs, alpha=0.35),
    "residual": lambda rngs: Residual(rngs=rngs),
}
SHORT = mobilenet_v2.ROWS[:2]
Trained = dict[str, np.ndarray]


def trained(name: str, *, seed: int = 0, **options: Any) -> Trained:
    """The history, the model and the optimizer's moments after two epochs of three batches.

    With flips, rotations, dropout and a padded last batch. Models 1 to 4 train as in their recipes,
    so that other tests share their programs.
    """
    images, labels = sketches.draw(42, 32, seed=3)
    photos = Split(images, labels, sketches.CLASS_NAMES, ("",) * 42)
    states: list[TrainState] = []
    records = list(
        fit(
            MODELS[name](nnx.Rngs(seed)),
            photos,
            photos,
            epochs=2,
            batch_size=16,
            optimizer=keras_adam(1e-4) if name == "model4" else keras_adam(),
            augment=(random_flip, random_rotation()),
            trainable=nnx.PathContains("head") if name == "model4" else nnx.Param,
            threshold=0.5 if name == "model4" else 0.0,
            seed=seed,
            callbacks=[lambda _, state: states.append(jax.tree.map(jnp.copy, state))],
            **options,
        )
    )
    assert {record.on_device for record in records} == {options.get("on_device", False)}
    last = states[-1]
    statistics = nnx.filter_state(last.other, nnx.Not(nnx.RngKey))
    arrays = jax.tree_util.tree_leaves_with_path((last.params, last.opt_state, statistics))
    return {jax.tree_util.keystr(path): np.asarray(array) for path, array in arrays} | {
        "history": np.array([[r.loss, r.accuracy, r.val_loss, r.val_accuracy] for r in records])
    }


# What other processes train, by the number of their devices: models, batch by batch or as a scan.
# Only cases that add something; slow, because most are programs of their own.
ELSEWHERE = {
    4: [("model4", False)],
    8: [("model1", False), ("model3", True), ("model4", False), ("residual", False)],
    1: [("model3", False), ("residual", True)],
}


def write_all(folder: Path, devices: int) -> None:
    """What each child process runs."""
    jax.config.update("jax_num_cpu_devices", devices)
    mobilenet_v2.ROWS = SHORT
    for name, on_device in ELSEWHERE[devices]:
        path = folder / f"{name}-{devices}-{on_device}.npz"
        np.savez(path, **trained(name, on_device=on_device))  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="module")
def elsewhere(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[str, int, bool], Trained]]:
    """What processes with one, four and eight devices have trained."""
    folder = tmp_path_factory.mktemp("trained")
    processes = {
        devices: subprocess.Popen([sys.executable, __file__, str(folder), str(devices)])
        for devices in ELSEWHERE
    }

    def read(name: str, devices: int, on_device: bool) -> Trained:
        assert processes[devices].wait() == 0
        with np.load(folder / f"{name}-{devices}-{on_device}.npz") as arrays:
            return dict(arrays)

    yield read
    for process in processes.values():
        process.kill()
        process.wait()


def slow(*params: Any) -> Any:
    return pytest.param(*params, marks=pytest.mark.slow)


# Models 1 and 2 are slow: they take the same code as model 3, in programs of their own.
@pytest.fixture(
    scope="module", params=[slow("model1"), slow("model2"), "model3", "model4", "residual"]
)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def here(name: str) -> Trained:
    """Trained in this process."""
    return trained(name)


@pytest.fixture(scope="module", autouse=True)
def _short_backbone() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mobilenet_v2, "ROWS", SHORT)
        yield


def assert_same(one: Trained, other: Trained) -> None:
    assert one.keys() == other.keys()
    for key, array in one.items():
        assert array.dtype == other[key].dtype
        np.testing.assert_array_equal(array, other[key], err_msg=key)


def assert_same_up_to_rounding(one: Trained, other: Trained, tolerance: float = 1e-5) -> None:
    assert one.keys() == other.keys()
    np.testing.assert_allclose(one["history"], other["history"], rtol=tolerance)
    for key, array in other.items():
        error = np.abs(one[key] - array).max() / max(np.abs(array).max(), 1e-12)
        assert error <= 100 * tolerance, key


def test_the_same_seed_is_the_same_training_bit_for_bit(name: str, here: Trained) -> None:
    assert_same(trained(name), here)
    assert np.isfinite(here["history"]).all()
    assert here["history"][0, 0] != here["history"][1, 0]  # it trains


@pytest.mark.parametrize("name", ["residual"], indirect=True)
def test_another_seed_is_another_training(name: str, here: Trained) -> None:
    assert not np.array_equal(trained(name, seed=1)["history"], here["history"])


@pytest.mark.parametrize(
    ("name", "devices", "on_device"),
    [
        ("model3", 4, True),
        ("residual", 1, False),
        # Slow: the same on one device, and with the frozen backbone of model 4.
        slow("model3", 1, True),
        slow("model4", 4, True),
    ],
    indirect=["name"],
)
def test_a_scan_or_fewer_devices_train_the_same_up_to_rounding(
    name: str, devices: int, on_device: bool, here: Trained
) -> None:
    there = trained(name, mesh=mesh_of(devices), on_device=on_device)
    assert_same_up_to_rounding(there, here)


# Model 4 is slow: only its frozen backbone is new.
@pytest.mark.parametrize("name", ["residual", slow("model4")], indirect=True)
def test_training_in_bfloat16_is_near_that_in_float32_and_stores_float32(
    name: str, here: Trained
) -> None:
    rounded = trained(name, dtype="bfloat16")
    losses = [0, 2]  # of training and validation
    np.testing.assert_allclose(rounded["history"][:, losses], here["history"][:, losses], rtol=0.1)
    assert not np.array_equal(rounded["history"], here["history"])
    assert {key: array.dtype for key, array in rounded.items()} == {
        key: array.dtype for key, array in here.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, _ in ELSEWHERE[4]], indirect=True)
def test_another_process_trains_the_same_bit_for_bit(
    name: str, here: Trained, elsewhere: Callable[[str, int, bool], Trained]
) -> None:
    assert jax.device_count() == 4
    assert_same(elsewhere(name, 4, False), here)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "devices", "on_device"),
    [(name, devices, scan) for devices in (8, 1) for name, scan in ELSEWHERE[devices]],
    indirect=["name"],
)
def test_other_devices_train_the_same_up_to_rounding(
    name: str,
    devices: int,
    on_device: bool,
    here: Trained,
    elsewhere: Callable[[str, int, bool], Trained],
) -> None:
    # Models 1 and 2 take pixels up to 255 as they are, which magnifies rounding.
    tolerance = 1e-3 if name in ("model1", "model2") else 1e-5
    assert_same_up_to_rounding(elsewhere(name, devices, on_device), here, tolerance)


if __name__ == "__main__":
    write_all(Path(sys.argv[1]), int(sys.argv[2]))
