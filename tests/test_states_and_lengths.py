"""Initial and final states, sequences of different lengths, and empty ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from problems import Problem, assert_same_bytes, called, named, outputs, problems

import clstm

# ---- states ----


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_a_missing_state_is_zeros(num_layers, bidirectional):
    problem = Problem(3, 4, num_layers, bidirectional)
    lstm, batch = problem.lstm(), problem.batch()
    h_0, c_0 = batch.state
    zeros = np.zeros_like(h_0)
    for some, full in [
        (None, (zeros, zeros)),
        ((None, None), (zeros, zeros)),
        ((h_0, None), (h_0, zeros)),
        ((None, c_0), (zeros, c_0)),
        ([h_0, c_0], (h_0, c_0)),
    ]:
        expected = outputs(lstm, batch._replace(state=full))
        assert_same_bytes(outputs(lstm, batch._replace(state=some)), expected)


def test_the_state_of_one_call_continues_in_the_next():
    problem = Problem(3, 4, 2, T=8)
    lstm, batch = problem.lstm(), problem.batch()
    _, state = lstm(batch.x[:5])
    continued, _ = lstm(batch.x[5:], state)
    assert_same_bytes(continued, lstm(batch.x)[0][5:])
    assert not np.array_equal(continued, lstm(batch.x[5:])[0])


def test_each_layer_and_direction_uses_its_own_state():
    problem = Problem(3, 4, 2, bidirectional=True, T=1)
    lstm, batch = problem.lstm(), problem.batch()
    _, (h_n, c_n) = lstm(batch.x, batch.state)
    for index in range(4):
        for which in range(2):
            state = [array.copy() for array in batch.state]
            state[which][index] += 1
            _, (h_changed, c_changed) = lstm(batch.x, state)
            changed = [i for i in range(4) if not np.array_equal(c_n[i], c_changed[i])]
            assert changed == ([index, 2, 3] if index < 2 else [index])  # and all of the layer above


def test_the_reverse_direction_starts_from_its_state_at_the_last_step():
    problem = Problem(3, 4, bidirectional=True, T=6)
    lstm, batch = problem.lstm(), problem.batch()
    lstm.weight_ih_l0_reverse = np.zeros((16, 3))
    lstm.weight_hh_l0_reverse = np.zeros((16, 4))
    bias = np.repeat([-50, 0.5, 0, 50], 4)  # i = 0, o = 1: c decays from c_0, y = tanh(c)
    lstm.bias_ih_l0_reverse, lstm.bias_hh_l0_reverse = bias, np.zeros(16)
    y, (_, c_n) = lstm(batch.x, batch.state)
    decay = 1 / (1 + np.exp(-0.5))
    steps = np.arange(6, 0, -1)[:, None, None]
    np.testing.assert_allclose(y[:, :, 4:], np.tanh(batch.state[1][1] * decay**steps), atol=1e-6)
    np.testing.assert_allclose(c_n[1], batch.state[1][1] * decay**6, atol=1e-6)


def test_states_are_never_written_to():
    problem = Problem(3, 4, 2, bidirectional=True, with_lengths=True)
    lstm, batch = problem.lstm(), problem.batch()
    kept = [array.copy() for array in batch.state]
    for array in (*batch.state, batch.x, batch.lengths):
        array.flags.writeable = False
    outputs(lstm, batch)
    for array, expected in zip(batch.state, kept, strict=True):
        assert_same_bytes(array, expected)


@pytest.mark.parametrize("convert", [np.float64, np.asfortranarray, np.ndarray.tolist, lambda a: a[::-1].copy()[::-1]])
@pytest.mark.parametrize("with_lengths", [False, True])
def test_states_of_any_layout(with_lengths, convert):
    problem = Problem(3, 4, 2, with_lengths=with_lengths)
    lstm, batch = problem.lstm(), problem.batch()
    state = tuple(convert(array) for array in batch.state)
    assert_same_bytes(named(*lstm(batch.x, state, batch.lengths)), called(lstm, batch))


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        ((np.zeros((1, 2, 4)), None), ValueError, r"h_0 has shape \(1, 2, 4\), but \(2, 2, 4\) is expected"),
        ((None, np.zeros((2, 3, 4))), ValueError, r"c_0 has shape \(2, 3, 4\), but \(2, 2, 4\) is expected"),
        ((None, np.zeros((2, 4))), ValueError, r"c_0 has shape \(2, 4\), but \(2, 2, 4\) is expected"),
        ((np.zeros((2, 2, 4), complex), None), TypeError, "h_0 has dtype complex128, but real numbers are expected"),
        ((None, "state"), TypeError, "c_0 has dtype <U5, but real numbers are expected"),
        ((None,), TypeError, r"state is a tuple of length 1, but a pair \(h_0, c_0\) is expected"),
        (np.zeros((2, 2, 2, 4)), TypeError, r"state is a ndarray, but a pair \(h_0, c_0\) is expected"),
        ((None, None, None), TypeError, r"state is a tuple of length 3, but a pair \(h_0, c_0\) is expected"),
        (5, TypeError, r"state is a int, but a pair \(h_0, c_0\) is expected"),
    ],
)
def test_wrong_states_are_refused(state, error, message):
    lstm = clstm.LSTM(3, 4, num_layers=2)
    x = np.zeros((5, 2, 3))
    for call in (lstm, lstm.forward):
        with pytest.raises(error, match=message):
            call(x, state)


def test_states_without_batch_axis_go_with_x_without_batch_axis():
    lstm = clstm.LSTM(3, 4, num_layers=2)
    with pytest.raises(ValueError, match=r"h_0 has shape \(2, 1, 4\), but \(2, 4\) is expected"):
        lstm(np.zeros((5, 3)), (np.zeros((2, 1, 4)), None))


# ---- lengths ----


@settings(max_examples=40)
@given(problems(sizes=(1, 3, 8), batches=(1, 2, 5, 9), steps=(1, 4, 9), with_lengths=True))
def test_each_row_ends_at_its_own_last_step(problem):
    """Outputs beyond it are 0, and the final states are those there."""
    lstm, batch = problem.lstm(), problem.batch()
    y, (h_n, c_n) = lstm(batch.x, batch.state, batch.lengths)
    for row, length in enumerate(batch.lengths):
        alone = batch.rows([row])
        y_alone, (h_alone, c_alone) = lstm(alone.x[:length], alone.state)
        assert_same_bytes(y[:length, [row]], y_alone)
        assert_same_bytes(y[length:, row], np.zeros_like(y[length:, row]))
        assert_same_bytes(np.stack([h_n[:, [row]], c_n[:, [row]]]), np.stack([h_alone, c_alone]))


def test_lengths_in_any_order_and_kind():
    problem = Problem(3, 4, 2, bidirectional=True, T=7, B=5)
    lstm, batch = problem.lstm(), problem.batch()
    lengths = [3, 7, 0, 7, 1]
    expected = outputs(lstm, batch._replace(lengths=np.array(lengths)))
    kinds = [lengths, tuple(lengths), *(np.array(lengths, dtype) for dtype in ("int8", "uint64", "int32", ">i8"))]
    kinds.append(np.repeat(lengths, 2)[::2])
    for kind in kinds:
        assert_same_bytes(outputs(lstm, batch._replace(lengths=kind)), expected)


def test_full_lengths_are_no_lengths():
    problem = Problem(3, 4, 2, bidirectional=True, T=7, B=5)
    lstm, batch = problem.lstm(), problem.batch()
    assert_same_bytes(outputs(lstm, batch._replace(lengths=np.full(5, 7))), outputs(lstm, batch))


def test_lengths_all_shorter_than_time_keep_all_steps():
    lstm = clstm.LSTM(3, 4, bidirectional=True)
    y, _ = lstm(np.ones((9, 2, 3)), lengths=[2, 3])
    assert y.shape == (9, 2, 8)
    assert not y[3:].any() and not y[2:, 0].any()
    assert y[:2].all()


def test_a_sequence_without_steps_keeps_its_initial_state():
    problem = Problem(3, 4, 2, bidirectional=True, T=5, B=3)
    lstm, batch = problem.lstm(), problem.batch()
    y, (h_n, c_n) = lstm(batch.x, batch.state, [0, 5, 0])
    assert not y[:, [0, 2]].any()
    for row in (0, 2):
        assert_same_bytes(h_n[:, row], batch.state[0][:, row])
        assert_same_bytes(c_n[:, row], batch.state[1][:, row])
    _, (h_n, c_n) = lstm(batch.x, None, [0, 5, 0])
    assert not h_n[:, [0, 2]].any() and not c_n[:, [0, 2]].any()


def test_padding_is_never_read():
    problem = Problem(3, 4, 2, bidirectional=True, T=5, B=3)
    lstm, batch = problem.lstm(), problem.batch()
    batch = batch._replace(lengths=np.array([2, 5, 0]))
    expected = outputs(lstm, batch)
    for row, length in enumerate(batch.lengths):
        batch.x[length:, row] = np.nan
        batch.dy[length:, row] = np.nan
    assert_same_bytes(outputs(lstm, batch), expected)


def test_lengths_without_batch_axis():
    lstm = clstm.LSTM(3, 4, seed=0)
    x = np.ones((5, 3), np.float32)
    y, (h_n, _) = lstm(x, lengths=[2])
    assert_same_bytes(y[:2], lstm(x[:2])[0])
    assert_same_bytes(h_n[0], y[1])
    with pytest.raises(ValueError, match=r"lengths has shape \(2,\), but \(1,\) is expected"):
        lstm(x, lengths=[2, 2])


@pytest.mark.parametrize(
    ("lengths", "error", "message"),
    [
        ([3, 6], ValueError, r"lengths has 6 at row 1, but 0 to 5 is expected: x has 5 time steps"),
        ([-1, 3], ValueError, r"lengths has -1 at row 0, but 0 to 5 is expected"),
        (np.array([1, 2**64 - 1], np.uint64), ValueError, r"lengths has 18446744073709551615 at row 1, but 0 to 5"),
        ([1, 2, 3], ValueError, r"lengths has shape \(3,\), but \(2,\) is expected: one length per row of x"),
        ([[1], [2]], ValueError, r"lengths has shape \(2, 1\), but \(2,\) is expected"),
        (4, ValueError, r"lengths has shape \(\), but \(2,\) is expected"),
        ([], ValueError, r"lengths has shape \(0,\), but \(2,\) is expected"),
        ([1.0, 2.0], TypeError, "lengths has dtype float64, but integers are expected"),
        ([np.nan, 2], TypeError, "lengths has dtype float64, but integers are expected"),
        ([True, False], TypeError, "lengths has dtype bool, but integers are expected"),
        (["3", "4"], TypeError, "lengths has dtype <U1, but integers are expected"),
        ([10**30, 1], TypeError, "lengths has dtype object, but integers are expected"),
        (
            np.ma.masked_equal([5, 2], 2),
            TypeError,
            "lengths is an array with masked values, but one without is expected",
        ),
    ],
)
def test_wrong_lengths_are_refused(lengths, error, message):
    lstm = clstm.LSTM(3, 4)
    for call in (lstm, lstm.forward):
        with pytest.raises(error, match=message):
            call(np.zeros((5, 2, 3)), lengths=lengths)


# ---- nothing at all ----


@pytest.mark.parametrize("with_lengths", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("T", "B"), [(0, 3), (4, 0), (0, 0)])
def test_no_steps_and_no_rows(T, B, bidirectional, batch_first, with_lengths):
    problem = Problem(3, 5, 2, bidirectional, T=T, B=B, with_lengths=with_lengths)
    lstm, batch = problem.lstm(batch_first=batch_first), problem.batch()
    x = batch.x.swapaxes(0, 1) if batch_first else batch.x
    D = 1 + bidirectional
    for state, final in [(batch.state, batch.state), (None, [np.zeros((2 * D, B, 5), np.float32)] * 2)]:
        for y, state_n in (lstm(x, state, batch.lengths), lstm.forward(x, state, batch.lengths)[:2]):
            assert y.shape == ((B, T, D * 5) if batch_first else (T, B, D * 5))
            assert y.dtype == np.float32
            assert_same_bytes(np.stack(state_n), np.stack(final))


def test_no_steps_without_batch_axis():
    lstm = clstm.LSTM(3, 5)
    y, (h_n, c_n) = lstm(np.zeros((0, 3)), (np.ones((1, 5)), None))
    assert y.shape == (0, 5)
    assert h_n.tolist() == [[1.0] * 5]
    assert c_n.tolist() == [[0.0] * 5]
    y, _, tape = lstm.forward(np.zeros((0, 3)))
    dx, (dh_0, _), _ = lstm.backward(tape, y, (np.ones((1, 5)), None))
    assert dx.shape == (0, 3)
    assert dh_0.tolist() == [[1.0] * 5]


def test_final_states_are_not_views_of_one_another():
    lstm = clstm.LSTM(3, 5)
    h_0 = np.ones((1, 2, 5), np.float32)
    _, (h_n, c_n) = lstm(np.zeros((0, 2, 3)), (h_0, h_0))
    assert not np.shares_memory(h_n, h_0) and not np.shares_memory(h_n, c_n)
