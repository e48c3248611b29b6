"""Dropout between layers: where, how much, and from which random numbers."""

import copy
import pickle

import numpy as np
import pytest
from problems import Problem, assert_same_bytes, called, named
from reference import lstm as reference

import clstm


def revealing(num_layers=2, hidden_size=16, dropout=0.5, seed=0, bidirectional=False):
    """A network whose upper layers keep no state and pass each input on through y = tanh(tanh(input)), so that zeros
    in y are what was dropped."""
    lstm = clstm.LSTM(
        1, hidden_size, num_layers, dropout=dropout, seed=seed, bidirectional=bidirectional, dtype="float64"
    )
    gates = np.repeat([1e4, -1e4, 0, 1e4], hidden_size)  # i = 1, f = 0, g = tanh(input), o = 1
    for name, array in lstm.parameters().items():
        if "bias_ih" in name and "l0" not in name:
            array[...] = gates
        elif "l0" not in name:
            array[...] = 0
            if "weight_ih" in name:
                offset = hidden_size if "reverse" in name else 0
                array[2 * hidden_size : 3 * hidden_size, offset : offset + hidden_size] = np.eye(hidden_size)
    return lstm


def masks_of(lstm, x):
    """True where an output of the first layer was kept, and the factor on it."""
    y, _, _ = lstm.forward(x)
    below, _ = lstm(x)
    passed, all_passed = np.arctanh(np.arctanh(y)), np.arctanh(np.arctanh(below))
    return y != 0, passed / all_passed


X = np.random.default_rng(0).standard_normal((50, 8, 1))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_outputs_between_layers_are_zeroed_with_probability_p_and_scaled_by_the_rest(p):
    kept, factor = masks_of(revealing(dropout=p), X)
    count = kept.size  # 6400
    assert abs(kept.mean() - (1 - p)) < 5 * np.sqrt(p * (1 - p) / count)
    np.testing.assert_allclose(factor[kept], 1 / (1 - p), rtol=1e-6)
    assert abs(factor.mean() - 1) < 5 * np.sqrt(p / (1 - p) / count)  # so the mean is preserved


def test_every_step_row_and_unit_has_its_own_chance():
    kept, _ = masks_of(revealing(hidden_size=32), np.repeat(X, 4, axis=0))
    for axis in range(3):
        neighbours = np.mean(
            np.take(kept, range(1, kept.shape[axis]), axis) == np.take(kept, range(kept.shape[axis] - 1), axis)
        )
        assert abs(neighbours - 0.5) < 0.02  # 5 standard deviations of 51,200 coins are 0.011
        rates = kept.mean(axis=tuple(other for other in range(3) if other != axis))
        assert rates.min() > 0.3 and rates.max() < 0.7


def test_each_layer_has_a_mask_of_its_own():
    kept_twice, _ = masks_of(revealing(3), X)
    assert abs(kept_twice.mean() - 0.25) < 0.03  # 0.5 if both masks were one


def test_the_reference_with_the_same_mask_agrees():
    lstm = revealing(hidden_size=5)
    kept, factor = masks_of(lstm, X[:6])
    trained = Problem(1, 5, 2, dtype="float64").lstm(dropout=0.5, seed=0)
    y, state, _ = trained.forward(X[:6])
    masks = np.where(kept, 2.0, 0.0)[None]
    expected = named(*reference(trained.parameters(), X[:6], masks=masks))
    for name, array in named(y, state).items():
        np.testing.assert_allclose(array, expected[name], rtol=0, atol=1e-14)


def test_a_plain_call_has_no_dropout():
    problem = Problem(3, 4, 3)
    assert_same_bytes(called(problem.lstm(dropout=0.5), problem.batch()), called(problem.lstm(), problem.batch()))


def test_p_0_is_no_dropout():
    problem = Problem(3, 4, 3)
    lstm, batch = problem.lstm(dropout=0.0), problem.batch()
    y, state, _ = lstm.forward(batch.x, batch.state)
    assert_same_bytes(named(y, state), called(lstm, batch))
    assert lstm.dropout_counter == 0


def test_p_1_drops_everything_between_layers():
    problem = Problem(3, 4, 2, dtype="float64")
    lstm, batch = problem.lstm(dropout=1.0), problem.batch()
    y, state, tape = lstm.forward(batch.x, batch.state)
    masks = np.zeros((1, *y.shape))
    expected = named(*reference(lstm.parameters(), batch.x, batch.state, masks=masks))
    for name, array in named(y, state).items():
        np.testing.assert_allclose(array, expected[name], rtol=0, atol=1e-14)
    dx, _, grads = lstm.backward(tape, np.ones_like(y))
    assert not dx.any() and not grads["weight_ih_l0"].any() and grads["weight_hh_l1"].any()
    assert all(np.isfinite(array).all() for array in grads.values())


def test_the_last_layer_is_not_dropped():
    y, _, _ = Problem(3, 50, 2).lstm(dropout=0.5).forward(np.ones((20, 5, 3)))
    assert np.all(y != 0)


def test_a_single_layer_has_no_dropout():
    problem = Problem(3, 4)
    with pytest.warns(UserWarning, match="dropout acts between layers, but num_layers is 1, so it does nothing"):
        lstm = problem.lstm(dropout=0.5)
    batch = problem.batch()
    y, state, _ = lstm.forward(batch.x, batch.state)
    assert_same_bytes(named(y, state), called(lstm, batch))


def test_both_directions_are_dropped():
    kept, _ = masks_of(revealing(bidirectional=True), X)
    for half in np.split(kept, 2, axis=-1):
        assert abs(half.mean() - 0.5) < 0.05
    assert abs(np.mean(kept[..., :16] == kept[..., 16:]) - 0.5) < 0.05


def training_outputs(lstm, calls=3):
    return np.stack([lstm.forward(X)[0] for _ in range(calls)])


def test_each_call_has_new_masks_and_a_seed_repeats_them():
    first = training_outputs(revealing(seed=1))
    assert_same_bytes(training_outputs(revealing(seed=1)), first)
    for a, b in [(0, 1), (1, 2), (0, 2)]:
        assert abs(np.mean((first[a] != 0) == (first[b] != 0)) - 0.5) < 0.05
    other = revealing(seed=2)
    other.load_state_dict(revealing(seed=1).state_dict())
    other = training_outputs(other)
    for b in range(3):
        assert abs(np.mean((first[0] != 0) == (other[b] != 0)) - 0.5) < 0.05


def test_networks_without_a_seed_have_masks_of_their_own():
    a, b = revealing(seed=None), revealing(seed=None)
    b.load_state_dict(a.state_dict())
    assert abs(np.mean((a.forward(X)[0] != 0) == (b.forward(X)[0] != 0)) - 0.5) < 0.05


def test_a_call_that_fails_uses_up_no_mask():
    lstm, same = revealing(), revealing()
    with pytest.raises(ValueError, match="features"):
        lstm.forward(np.ones((3, 2, 5)))
    assert_same_bytes(training_outputs(lstm), training_outputs(same))


def test_plain_calls_use_up_no_mask():
    lstm, same = revealing(), revealing()
    lstm(X)
    assert_same_bytes(training_outputs(lstm), training_outputs(same))


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_continue_with_the_same_masks(duplicate):
    lstm = revealing()
    training_outputs(lstm)
    copied = duplicate(lstm)
    assert_same_bytes(training_outputs(copied), training_outputs(lstm))


def test_the_counter_selects_the_masks():
    lstm = revealing(seed=4)
    expected = training_outputs(lstm, 5)
    assert lstm.dropout_counter == 5
    resumed = revealing(seed=4)
    resumed.dropout_counter = 3
    assert_same_bytes(training_outputs(resumed, 2), expected[3:])
    wrapped = revealing(seed=2**64 - 1)
    training_outputs(wrapped)


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_masks_do_not_depend_on_the_number_of_threads(threads):
    problem = Problem(17, 65, 3, True, T=24, B=33)
    lstm, batch = problem.lstm(dropout=0.5), problem.batch()
    clstm.set_num_threads(4)
    expected, _, _ = lstm.forward(batch.x)
    clstm.set_num_threads(threads)
    lstm.dropout_counter = 0
    assert_same_bytes(lstm.forward(batch.x)[0], expected)


def test_dropped_outputs_have_no_gradient():
    lstm = revealing(hidden_size=3)
    kept, _ = masks_of(lstm, X[:4])
    lstm.dropout_counter = 0
    lstm.weight_hh_l0[...] = 0
    y, _, tape = lstm.forward(X[:4])
    for unit in range(3):
        dy = np.zeros_like(y)
        dy[..., unit] = 1
        dx, _, _ = lstm.backward(tape, dy)
        last_kept = np.where(kept[..., unit].any(axis=0), 3 - np.argmax(kept[::-1, :, unit], axis=0), -1)
        for row, last in enumerate(last_kept):  # the cell carries a step's input to the later ones
            assert np.all(dx[: last + 1, row] != 0) and not np.any(dx[last + 1 :, row])
