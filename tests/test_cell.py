"""LSTMCell: one step at a time, with the state in the caller's hands."""

import numpy as np
import pytest
from hypothesis import given, settings
from problems import Problem, assert_same_bytes, outputs, problems

import clstm

one_layer = {"layers": (1,), "bidirectional": False, "with_lengths": False}


def cell_of(lstm):
    """A cell with the weights of a network of one layer."""
    cell = clstm.LSTMCell(lstm.input_size, lstm.hidden_size, lstm.bias, dtype=lstm.dtype)
    cell.load_state_dict({name.removesuffix("_l0"): array for name, array in lstm.parameters().items()})
    return cell


@settings(max_examples=40)
@given(problems(**one_layer))
def test_steps_of_a_cell_are_a_call_of_a_network(problem):
    lstm, batch = problem.lstm(), problem.batch()
    cell, state = cell_of(lstm), batch.state and tuple(array[0] for array in batch.state)
    y = []
    for x_t in batch.x:
        state = cell(x_t, state)
        y.append(state[0])
    expected, (h_n, c_n) = lstm(batch.x, batch.state)
    assert_same_bytes(np.stack(y), expected)
    assert_same_bytes(np.stack(state), np.stack([h_n[0], c_n[0]]))


@settings(max_examples=40)
@given(problems(**one_layer, steps=(1, 2, 5)))
def test_backward_through_cells_is_backpropagation_through_time(problem):
    lstm, batch = problem.lstm(), problem.batch()
    expected = outputs(lstm, batch)
    cell, state = cell_of(lstm), batch.state and tuple(array[0] for array in batch.state)
    tapes = []
    for x_t in batch.x:
        state, tape = cell.forward(x_t, state)
        tapes.append(tape)
    dh, dc = (array[0] for array in batch.dstate)
    dx, total = np.empty_like(batch.x), dict.fromkeys(cell.parameters(), 0)
    for t in reversed(range(problem.T)):
        dx[t], (dh, dc), grads = cell.backward(tapes[t], batch.dy[t] + dh, dc)
        total = {name: total[name] + grads[name] for name in total}
    assert_same_bytes(dx, expected["dx"])
    assert_same_bytes(np.stack([dh, dc]), np.stack([expected["dh_0"][0], expected["dc_0"][0]]))
    tolerance = 1e-5 if problem.dtype == "float32" else 1e-13
    for name in total:  # summed in another order
        scale = 1 + np.linalg.norm(expected[f"{name}_l0"])
        np.testing.assert_allclose(total[name], expected[f"{name}_l0"], rtol=0, atol=tolerance * scale)


def test_a_single_step_without_batch_axis():
    cell = clstm.LSTMCell(3, 4, seed=0)
    x, state = np.ones((1, 3), np.float32), (np.full((1, 4), 0.5, np.float32), np.ones((1, 4), np.float32))
    h, c = cell(x[0], tuple(array[0] for array in state))
    assert h.shape == c.shape == (4,)
    assert_same_bytes(np.stack([h, c]), np.stack(cell(x, state))[:, 0])
    (h, c), tape = cell.forward(x[0])
    dx, (dh_0, dc_0), grads = cell.backward(tape, dh=h)
    assert dx.shape == (3,) and dh_0.shape == dc_0.shape == (4,)
    assert grads.keys() == cell.parameters().keys()


def test_missing_states_and_gradients_are_zeros():
    cell = clstm.LSTMCell(3, 4, seed=0)
    x, zeros, ones = np.ones((2, 3), np.float32), np.zeros((2, 4), np.float32), np.ones((2, 4), np.float32)
    for some in (None, (None, None), (zeros, None), (None, zeros)):
        assert_same_bytes(np.stack(cell(x, some)), np.stack(cell(x, (zeros, zeros))))
    _, tape = cell.forward(x, (ones, ones))
    for some, full in [((None, None), (zeros, zeros)), ((ones, None), (ones, zeros)), ((None, ones), (zeros, ones))]:
        assert_same_bytes(cell.backward(tape, *some)[2], cell.backward(tape, *full)[2])
        assert_same_bytes(cell.backward(tape, *some)[0], cell.backward(tape, *full)[0])


def test_names_and_shapes_are_those_of_pytorch():
    cell = clstm.LSTMCell(3, 4)
    shapes = {name: array.shape for name, array in cell.state_dict().items()}
    assert shapes == {"weight_ih": (16, 3), "weight_hh": (16, 4), "bias_ih": (16,), "bias_hh": (16,)}
    bare = clstm.LSTMCell(3, 4, bias=False)
    assert list(bare.state_dict()) == ["weight_ih", "weight_hh"]
    assert bare.bias_ih is None and bare.bias_hh is None


def test_attributes_are_live():
    cell = clstm.LSTMCell(3, 4, seed=0)
    before, _ = cell(np.ones(3))
    cell.bias_ih[...] += 1
    changed, _ = cell(np.ones(3))
    assert not np.array_equal(before, changed)
    cell.bias_ih = cell.bias_ih - 1
    assert_same_bytes(cell(np.ones(3))[0], before)


def test_repr_is_the_call_that_makes_it():
    cell = clstm.LSTMCell(3, 4, bias=False, dtype="float64")
    assert repr(cell) == "LSTMCell(input_size=3, hidden_size=4, bias=False, dtype='float64')"
    assert eval(repr(cell), {"LSTMCell": clstm.LSTMCell}).config() == cell.config()


@pytest.mark.parametrize("shape", [(0, 3), (1, 3), (5, 3)])
def test_any_number_of_rows(shape):
    cell = clstm.LSTMCell(3, 4, seed=0)
    (h, c), tape = cell.forward(np.ones(shape))
    assert h.shape == c.shape == (shape[0], 4)
    assert cell.backward(tape, h, c)[0].shape == shape


@pytest.mark.parametrize(
    ("x", "state", "error", "message"),
    [
        (np.ones((2, 5)), None, ValueError, "x has 5 features, but input_size is 3"),
        (np.ones((1, 2, 3)), None, ValueError, r"x has shape \(1, 2, 3\), but \(batch, 3\) or \(3,\) is expected"),
        (1.0, None, ValueError, r"x has shape \(\), but \(batch, 3\) or \(3,\) is expected"),
        (np.ones((2, 3), complex), None, TypeError, "x has dtype complex128, but real numbers are expected"),
        (np.ones((2, 3)), np.ones((2, 2, 4)), TypeError, r"state is a ndarray, but a pair \(h, c\) is expected"),
        (np.ones((2, 3)), (np.ones((2, 5)), None), ValueError, r"h.* has shape \(2, 5\), but \(2, 4\) is expected"),
        (np.ones((2, 3)), (None, np.ones((3, 4))), ValueError, r"c.* has shape \(3, 4\), but \(2, 4\) is expected"),
        (np.ones(3), (np.ones((1, 4)), None), ValueError, r"h.* has shape \(1, 4\), but \(4,\) is expected"),
    ],
)
def test_wrong_arguments_are_refused(x, state, error, message):
    with pytest.raises(error, match=message):
        clstm.LSTMCell(3, 4)(x, state)


def test_wrong_gradients_are_refused():
    cell = clstm.LSTMCell(3, 4)
    _, tape = cell.forward(np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"dh.* has shape \(2, 5\), but \(2, 4\) is expected"):
        cell.backward(tape, dh=np.ones((2, 5)))
    with pytest.raises(ValueError, match=r"dc.* has shape \(4,\), but \(2, 4\) is expected"):
        cell.backward(tape, dc=np.ones(4))
    with pytest.raises(ValueError, match="tape is .*, but one that this"):
        clstm.LSTMCell(3, 4).backward(tape)


def test_a_cell_is_not_confused_by_a_network():
    problem = Problem(3, 4)
    lstm, x = problem.lstm(), problem.batch().x
    cell = cell_of(lstm)
    cell.weight_ih[...] = 0
    assert lstm.weight_ih_l0.any()
    assert not np.array_equal(cell(x[0])[0], lstm(x[:1])[0][0])
