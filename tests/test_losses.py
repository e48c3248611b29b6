"""cross_entropy and mse_loss: values, gradients, extreme numbers and errors."""

import math

import numpy as np
import pytest
from derivatives import assert_gradient, leading, randoms, seeds
from hypothesis import given
from hypothesis import strategies as st

import clstm


@given(leading, st.integers(1, 6), st.booleans(), seeds)
def test_cross_entropy_gradient(shape, classes, ignore, seed):
    (logits,) = randoms(seed, (*shape, classes))
    targets = np.random.default_rng(seed).integers(-1 if ignore else 0, classes, shape)
    ignore_index = -1 if ignore else None
    loss, dlogits = clstm.cross_entropy(logits, targets, ignore_index)

    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    terms = [-math.log(probabilities[(*i, targets[i])]) for i in np.ndindex(shape) if targets[i] >= 0]
    assert loss == pytest.approx(sum(terms) / max(len(terms), 1), rel=1e-12, abs=1e-12)
    assert_gradient(dlogits, lambda: clstm.cross_entropy(logits, targets, ignore_index)[0], logits)


@given(leading, seeds)
def test_mse_gradient(shape, seed):
    prediction, target = randoms(seed, shape, shape)
    loss, dprediction = clstm.mse_loss(prediction, target)
    assert loss == pytest.approx(((prediction - target) ** 2).sum() / max(prediction.size, 1), rel=1e-12)
    assert_gradient(dprediction, lambda: clstm.mse_loss(prediction, target)[0], prediction)


def test_cross_entropy_of_extreme_logits():
    with np.errstate(all="raise", under="ignore"):
        loss, dlogits = clstm.cross_entropy(np.array([[3e38, -3e38, 0.0]], np.float32) / 2, [0])
        assert loss == 0.0 and dlogits.tolist() == [[0.0, 0.0, 0.0]]
        loss, dlogits = clstm.cross_entropy([[0.0, 1e300]], [0])
        assert loss == 1e300 and dlogits.tolist() == [[-1.0, 1.0]]
        loss, dlogits = clstm.cross_entropy([[0.0, -np.inf, 0.0]], [0])
        assert loss == pytest.approx(math.log(2)) and dlogits.tolist() == [[-0.5, 0.0, 0.5]]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_cross_entropy_keeps_nan_in_its_row(bad):
    loss, dlogits = clstm.cross_entropy([[1.0, 2.0], [bad, 0.0], [0.0, 0.0]], [0, 1, 1])
    assert math.isnan(loss)
    assert np.isnan(dlogits).all(axis=1).tolist() == [False, True, False]


def test_losses_change_no_argument_and_keep_the_dtype():
    for dtype in (np.float32, np.float64):
        logits, target = np.ones((2, 3), dtype), np.zeros((2, 3), dtype)
        logits.flags.writeable = target.flags.writeable = False
        loss, dlogits = clstm.cross_entropy(logits, [0, 1])
        assert type(loss) is float and dlogits.dtype == dtype
        loss, dprediction = clstm.mse_loss(logits, target)
        assert type(loss) is float and dprediction.dtype == dtype
    assert clstm.cross_entropy([[1, 2]], [0])[1].dtype == np.float64
    assert clstm.mse_loss(np.float16([1.0]), [0])[1].dtype == np.float32


def test_losses_of_nothing_train_nothing():
    loss, dlogits = clstm.cross_entropy(np.ones((2, 3)), [9, 9], ignore_index=9)
    assert loss == 0.0 and not dlogits.any()
    assert clstm.cross_entropy(np.ones((0, 3)), np.zeros(0, int))[0] == 0.0
    assert clstm.mse_loss(np.ones((0, 3)), np.ones((0, 3)))[0] == 0.0


def test_losses_refuse_wrong_arguments():
    with pytest.raises(ValueError, match=r"targets has the value 3 at position \(1,\), but the number of classes is 3"):
        clstm.cross_entropy(np.zeros((2, 3)), [0, 3])
    with pytest.raises(ValueError, match="targets has the value -1"):
        clstm.cross_entropy(np.zeros((2, 3)), [0, -1], ignore_index=-100)
    with pytest.raises(ValueError, match=r"targets has shape \(3,\), but logits has \(2, 3\)"):
        clstm.cross_entropy(np.zeros((2, 3)), [0, 1, 2])
    with pytest.raises(TypeError, match="targets has dtype float64"):
        clstm.cross_entropy(np.zeros((2, 3)), [0.0, 1.0])
    with pytest.raises(TypeError, match="logits has dtype complex128"):
        clstm.cross_entropy(np.zeros((2, 3), complex), [0, 1])
    with pytest.raises(ValueError, match="at least one class"):
        clstm.cross_entropy(np.zeros((2, 0)), [0, 0])
    with pytest.raises(ValueError, match="at least one class"):
        clstm.cross_entropy(0.0, [])
    with pytest.raises(ValueError, match=r"target has shape \(2,\), but prediction has \(2, 1\)"):
        clstm.mse_loss(np.zeros((2, 1)), np.zeros(2))
