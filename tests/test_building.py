"""Models built by one program: the same weights as built by plain Python, to the bit."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from catdog_jax.models.building import built
from catdog_jax.models.create import MODELS, create_model
from catdog_jax.runs.build import build_model
from catdog_jax.runs.experiment import Experiment
from catdog_jax.runs.recipes import RECIPES

KEY = jax.dtypes.prng_key
OPTIONS: dict[str, dict[str, Any]] = {
    **{name: {"image_size": 32} for name in MODELS},
    "model6": {"image_size": 32, "widths": (8, 12), "blocks": (1, 1)},
    "model6_deep": {"image_size": 32, "widths": (8, 12), "blocks": (2, 1)},
    "mobilenet_v2": {"alpha": 0.35, "include_top": True},
}


def arrays(module: Any) -> dict[Any, np.ndarray]:
    """All arrays by path; random keys as their data."""
    state: Any = nnx.to_flat_state(nnx.state(module))
    values = {path: variable[...] for path, variable in state}
    return {
        path: np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, KEY) else x)
        for path, x in values.items()
    }


def assert_equal(found: Any, expected: Any) -> None:
    assert found.keys() == expected.keys()
    for path, array in expected.items():
        assert found[path].dtype == array.dtype
        np.testing.assert_array_equal(found[path], array, str(path))


@pytest.mark.usefixtures("short_backbone")
@pytest.mark.parametrize("name", MODELS)
def test_each_of_our_models_gets_the_same_weights(name: str) -> None:
    """And leaves `rngs` as it would be: a second model differs, and in the same way."""
    together, alone = nnx.Rngs(3), nnx.Rngs(3)
    for _ in range(2):
        model = create_model(name, rngs=together, **OPTIONS[name])
        plain = MODELS[name](rngs=alone, **OPTIONS[name])
        assert nnx.graphdef(model) == nnx.graphdef(plain)
        assert_equal(arrays(model), arrays(plain))
        assert vars(model).keys() == vars(plain).keys()
    assert_equal(arrays(together), arrays(alone))


@pytest.mark.usefixtures("short_backbone")
def test_what_a_file_replaces_stays_zero_and_the_rest_is_the_same() -> None:
    experiment = replace(RECIPES["model5"], image_size=32, model_options=("alpha=0.35",))
    whole = arrays(build_model(experiment, 2))
    without = arrays(build_model(experiment, 2, None, nnx.PathContains("backbone")))
    zeros = {p: np.zeros_like(a) if p[0] == "backbone" else a for p, a in whole.items()}
    assert_equal(without, zeros)
    empty = build_model(experiment, 2, None, nnx.Everything())
    assert arrays(empty).keys() == whole.keys()
    assert not any(map(np.any, arrays(empty).values()))


def test_within_a_trace_it_is_just_called() -> None:
    model: Any = nnx.eval_shape(lambda: create_model("model3", image_size=32, rngs=nnx.Rngs(0)))
    assert model.dense1.kernel.shape == (1024, 128)

    @jax.jit
    def kernel() -> Any:
        own: Any = create_model("model3", image_size=32, rngs=nnx.Rngs(0))
        return own.dense1.kernel[...]

    model = create_model("model3", image_size=32, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(kernel(), model.dense1.kernel[...], rtol=1e-6)


def test_errors_of_a_model_are_its_own() -> None:
    def fail(_: nnx.Rngs) -> nnx.Module:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        built(fail, nnx.Rngs(0))


UNTRACEABLE = """
import functools
import jax.numpy as jnp
from flax import nnx

made = []

class Net(nnx.Module):
    def __init__(self, *, rngs):
        self.head = nnx.Linear(3, 2, rngs=rngs)
        self.scale = float(self.head.kernel[...].std())  # JAX cannot trace it
        self.shift = functools.partial(jnp.add, self.head.kernel[0, 0])  # hidden from JAX
        made.append(self)
        print("built with", float(self.head.kernel[0, 0]))

    def __call__(self, images):
        return self.head(self.shift(images).mean(axis=(1, 2)) / self.scale)
"""


def test_your_own_module_may_do_anything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net.py").write_text(UNTRACEABLE)
    model: Any = build_model(Experiment(f"{tmp_path}/net.py:Net", seed=5), 2)
    linear = nnx.Linear(3, 2, rngs=nnx.Rngs(5))
    assert_equal(arrays(model.head), arrays(linear))
    assert capsys.readouterr().out == f"built with {float(linear.kernel[0, 0])}\n"
    assert model.__init__.__globals__["made"] == [model]
    assert np.isfinite(model(jnp.ones((1, 4, 4, 3)))).all()
