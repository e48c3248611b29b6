"""How far back gradients reach. Their values: tests/test_charmodel.py."""

import numpy as np
import pytest
from problems import assert_same_bytes

import clstm
from clstm.inspection import lstm_gradient_reach

X = np.random.default_rng(0).standard_normal((9, 2, 3)).astype(np.float32)


def test_looking_leaves_the_masks_of_training_alone():
    looked_at, other = (clstm.LSTM(3, 8, 2, dropout=0.5, seed=0) for _ in range(2))
    lstm_gradient_reach(looked_at, X, np.ones((2, 8)))
    assert_same_bytes(looked_at.forward(X)[0], other.forward(X)[0])


def test_time_comes_first_whatever_the_layer_has():
    plain, batch_first = (clstm.LSTM(3, 4, batch_first=flag, seed=0) for flag in (False, True))
    dh = np.random.default_rng(1).standard_normal((2, 4))
    assert_same_bytes(lstm_gradient_reach(batch_first, X, dh), lstm_gradient_reach(plain, X, dh))
    assert batch_first.batch_first


@pytest.mark.parametrize(
    ("x", "dh", "message"),
    [
        (X[:0], np.ones((2, 4)), "x has no steps, but at least one is expected"),
        (X, np.ones(4), r"dh has shape \(4,\), but \(2, 4\) is expected"),
        (X, np.ones((2, 8)), r"dh has shape \(2, 8\), but \(2, 4\) is expected"),
    ],
)
def test_what_does_not_fit_is_refused(x, dh, message):
    with pytest.raises(ValueError, match=message):
        lstm_gradient_reach(clstm.LSTM(3, 4, seed=0), x, dh)
