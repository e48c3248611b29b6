"""Activations: their values and slopes, in every instruction set, and at infinity."""

import numpy as np
import pytest
from problems import ISAS
from reference_variants import ACTIVATIONS as FORMULAS

import clstm
from clstm import _core
from clstm.variants import ACTIVATIONS


def function_values(name, x):
    """An activation and its slope over x, as cells that pass it from c_0 to the output."""
    one = ["affine", 0, 1]
    lstm = clstm.LSTM(1, 1, bias=False, forget_gate=False, activations={"o": one, "h": name}, dtype=x.dtype)
    state = np.zeros((1, len(x), 1)), x[None, :, None]
    y, _, tape = lstm.forward(np.zeros((1, len(x), 1)), state)
    _, (_, dc_0), _ = lstm.backward(tape, np.ones_like(y))
    return y[0, :, 0], dc_0[0, :, 0]


def exact_values(name, x):
    if name == "sigmoid":
        return 1 / (1 + np.exp(-x))
    if name == "softplus":
        return np.maximum(0, x) + np.log1p(np.exp(-np.abs(x)))
    return FORMULAS[name](x)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_accurate_and_so_are_their_slopes(name, dtype):
    rng = np.random.default_rng(0)
    x = np.concatenate([s * rng.standard_normal(3001) for s in (1e-6, 0.01, 0.3, 1, 4, 20)]).astype(dtype)
    wide = x.astype(np.longdouble)
    eps = np.finfo(dtype).eps
    slopes = FORMULAS[name](wide.astype(np.clongdouble) + 1e-30j).imag * 1e30
    for isa in ISAS:
        _core.set_isa(isa)
        y, slope = function_values(name, x)
        cancels = name in ("hard_sigmoid", "affine")  # alpha x + beta, where 0.2 is not a float
        np.testing.assert_allclose(y, exact_values(name, wide), rtol=float(4 * eps), atol=float(2 * eps * cancels))
        np.testing.assert_allclose(slope, slopes, rtol=float(8 * eps), atol=float(2 * eps))


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("hard_sigmoid", 0, 1),
        ("relu", 0, np.inf),
        ("leaky_relu", -np.inf, np.inf),
        ("thresholded_relu", 0, np.inf),
        ("elu", -1, np.inf),
        ("scaled_tanh", -1, 1),
        ("softsign", -1, 1),
        ("softplus", 0, np.inf),
    ],
)
def test_activations_at_the_ends(name, low, high):
    for dtype in ("float32", "float64"):
        y, _ = function_values(name, np.array([-np.inf, np.inf, np.nan, -1e30, 1e30], dtype))
        assert (y[0], y[1]) == (low, high)
        assert np.isnan(y[2])
        assert np.all(np.isfinite(y[3:]))


def test_both_hard_sigmoids():
    x = np.linspace(-4, 4, 41)
    np.testing.assert_allclose(function_values("hard_sigmoid", x)[0], np.clip(0.2 * x + 0.5, 0, 1), atol=1e-15)
    keras3 = ["hard_sigmoid", 1 / 6, 0.5]
    np.testing.assert_allclose(function_values(keras3, x)[0], np.clip(x + 3, 0, 6) / 6, atol=1e-15)
