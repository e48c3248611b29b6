"""Steps that a mask takes out: the state is carried over them, and the output repeated."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from problems import Problem, assert_same_bytes, named, problems, variant_problems
from reference import initial_state, run_direction
from reference_variants import run_variant

import clstm

few = {"sizes": (1, 3, 8), "batches": (1, 2, 5), "steps": (1, 4, 9), "layers": (1, 2), "with_lengths": False}


def mask_of(problem, share=0.6):
    """Holes anywhere; the second row is masked wholly, the two after it in front and at the end."""
    mask = np.random.default_rng([problem.seed, 1]).random((problem.T, problem.B)) < share
    fixed = np.stack([np.arange(problem.T) * 0, np.arange(problem.T) > 1, np.arange(problem.T) < 2])
    mask[:, 1:4] = fixed.T.astype(bool)[:, : problem.B - 1]
    return mask


# ---- an independent reference: one step after the other ----


def masked_direction(step, parameters, suffix, x, mask, h, c, reverse):
    """Outputs (T, P) and final h and c of one row."""
    outputs, output = [None] * len(x), np.zeros(len(h))
    for t in range(len(x))[:: -1 if reverse else 1]:
        if mask[t]:
            y, h, c = step(parameters, suffix, x[t : t + 1], h, c)
            output = y[0]
        outputs[t] = output
    return np.array(outputs), h, c


def masked_lstm(problem, parameters, x, state, mask):
    """y, h_n and c_n."""
    D, step = 1 + problem.bidirectional, run_direction
    if problem.variant:
        step = partial(run_variant, problem.variant)
    names = [name for name in parameters if name.startswith("weight_hh")]
    sizes = (problem.features, problem.hidden_size)
    state = [
        initial_state(parameters, kind, names, problem.B, n) if array is None else array
        for array, kind, n in zip(state, ("h_0", "c_0"), sizes, strict=True)
    ]
    rows = []
    for b in range(problem.B):
        y, ends = x[:, b], []
        for layer in range(problem.num_layers):
            runs = [
                masked_direction(
                    step,
                    parameters,
                    f"l{layer}" + "_reverse" * reverse,
                    y,
                    mask[:, b],
                    *(array[layer * D + reverse, b] for array in state),
                    reverse,
                )
                for reverse in range(D)
            ]
            y = np.concatenate([run[0] for run in runs], axis=1)
            ends += [run[1:] for run in runs]
        rows.append((y, np.stack([h for h, _ in ends]), np.stack([c for _, c in ends])))
    return [np.stack(arrays, axis=1) for arrays in zip(*rows, strict=True)]


def arguments_of(problem):
    lstm, batch = problem.lstm(), problem.batch()
    h_0, c_0 = batch.state or (None, None)
    return lstm, batch, lstm.state_dict() | {"x": batch.x} | ({} if h_0 is None else {"h_0": h_0, "c_0": c_0})


def of_reference(problem, arguments, mask):
    state = arguments.get("h_0"), arguments.get("c_0")
    parameters = {name: array for name, array in arguments.items() if name not in ("x", "h_0", "c_0")}
    return masked_lstm(problem, parameters, arguments["x"], state, mask)


def check_against_reference(problem):
    """Outputs and states; then every gradient along a random direction, by complex steps of the reference."""
    lstm, batch, arguments = arguments_of(problem)
    mask, rng = mask_of(problem), np.random.default_rng(problem.seed)
    y, state, tape = lstm.forward(batch.x, batch.state, mask=mask)
    for found, expected in zip((y, *state), of_reference(problem, arguments, mask), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    assert_same_bytes(named(*lstm(batch.x, batch.state, mask=mask)), named(y, state))
    dx, dstate, grads = lstm.backward(tape, batch.dy, batch.dstate)
    assert not dx[~mask].any()
    gradients = {"x": dx, "h_0": dstate[0], "c_0": dstate[1]} | grads
    for name, array in arguments.items():
        direction = rng.standard_normal(array.shape)
        outputs = of_reference(problem, arguments | {name: array + 1e-30j * direction}, mask)
        terms = zip((batch.dy, *batch.dstate), outputs, strict=True)
        expected = sum(np.sum(d * output.imag) for d, output in terms) * 1e30
        np.testing.assert_allclose(np.sum(gradients[name] * direction), expected, rtol=1e-9, atol=1e-10, err_msg=name)


@settings(max_examples=60)
@given(problems(**few, dtype="float64"))
def test_outputs_states_and_gradients_are_those_of_a_loop_over_steps(problem):
    check_against_reference(problem)


@settings(max_examples=30)
@given(variant_problems(smooth=True, **few, dtype="float64"))
def test_variants(problem):
    check_against_reference(problem)


def test_gradients_agree_with_central_differences():
    """Every element of x, whose repeated outputs count as often as they stand there."""
    problem = Problem(2, 3, 2, bidirectional=True, T=6, B=3, dtype="float64")
    lstm, batch, mask = problem.lstm(), problem.batch(), mask_of(problem)

    def loss(x):
        y, state = lstm(x, batch.state, mask=mask)
        return sum(np.sum(d * a) for d, a in zip((batch.dy, *batch.dstate), (y, *state), strict=True))

    tape = lstm.forward(batch.x, batch.state, mask=mask)[2]
    dx = lstm.backward(tape, batch.dy, batch.dstate)[0]
    for index in np.ndindex(*dx.shape):
        step = np.zeros_like(batch.x)
        step[index] = 1e-5
        assert abs((loss(batch.x + step) - loss(batch.x - step)) / 2e-5 - dx[index]) < 1e-8


# ---- bits ----


@settings(max_examples=40)
@given(problems(**few | {"steps": (1, 4, 9, 40)}))
def test_valid_steps_are_those_of_the_row_without_its_holes(problem):
    lstm, batch, mask = problem.lstm(), problem.batch(), mask_of(problem)
    batch.x[~mask] = np.nan
    dy = np.where(mask[:, :, None], batch.dy, 0)
    y, state, tape = lstm.forward(batch.x, batch.state, mask=mask)
    dx, dstate, _ = lstm.backward(tape, dy, batch.dstate)
    for row in range(problem.B):
        alone, valid = batch.rows([row]), mask[:, row]
        expected, end, tape = lstm.forward(alone.x[valid], alone.state)
        assert_same_bytes(y[valid][:, [row]], expected)
        assert_same_bytes(np.stack([*state])[:, :, [row]], np.stack([*end]))
        gradients = lstm.backward(tape, dy[valid][:, [row]], alone.dstate)
        assert_same_bytes(dx[valid][:, [row]], gradients[0])
        assert_same_bytes(np.stack([*dstate])[:, :, [row]], np.stack([*gradients[1]]))


@settings(max_examples=30)
@given(problems(**few))
def test_a_mask_without_holes_is_lengths(problem):
    lstm, batch = problem.lstm(), problem.batch()
    lengths = np.random.default_rng(problem.seed).integers(0, problem.T + 1, problem.B)
    mask = np.arange(problem.T)[:, None] < lengths
    dy = np.where(mask[:, :, None], batch.dy, 0)
    y, state, tape = lstm.forward(batch.x, batch.state, lengths)
    y_masked, state_masked, tape_masked = lstm.forward(batch.x, batch.state, mask=mask)
    assert_same_bytes(np.where(mask[:, :, None], y_masked, 0), y)
    of_lengths, of_mask = lstm.backward(tape, dy, batch.dstate), lstm.backward(tape_masked, dy, batch.dstate)
    assert_same_bytes(named(of_mask[0], of_mask[1]) | of_mask[2], named(of_lengths[0], of_lengths[1]) | of_lengths[2])
    assert_same_bytes(named(y_masked, state_masked)["h_n"], state[0])


def test_a_masked_step_repeats_its_neighbour_in_the_order_of_processing():
    lstm = clstm.LSTM(2, 3, bidirectional=True, seed=0)
    x = np.random.default_rng(0).standard_normal((6, 2))
    y, _ = lstm(x, mask=[False, True, False, False, True, False])
    forward, reverse = y[:, :3], y[:, 3:]
    assert not forward[0].any() and not reverse[5].any()
    for repeats, of in (((2, 3), forward[1]), ((5,), forward[4])):
        assert all(np.array_equal(forward[t], of) for t in repeats)
    for repeats, of in (((0,), reverse[1]), ((2, 3), reverse[4])):
        assert all(np.array_equal(reverse[t], of) for t in repeats)


# ---- layouts and errors ----


def test_batch_first_and_one_sequence_without_batch_axis():
    problem = Problem(3, 4, 2, bidirectional=True, T=7, B=3)
    batch, mask = problem.batch(), mask_of(problem)
    lstm = problem.lstm()
    y, _, tape = lstm.forward(batch.x, mask=mask)
    dx = lstm.backward(tape, batch.dy)[0]
    first = problem.lstm(batch_first=True)
    y_first, _, tape = first.forward(batch.x.swapaxes(0, 1), mask=mask.T)
    assert_same_bytes(y_first.swapaxes(0, 1), y)
    assert_same_bytes(first.backward(tape, batch.dy.swapaxes(0, 1))[0].swapaxes(0, 1), dx)
    assert_same_bytes(lstm(batch.x[:, 2], mask=mask[:, 2])[0], y[:, 2])
    assert_same_bytes(lstm(batch.x[:, 2], mask=list(mask[:, 2]))[0], y[:, 2])


@pytest.mark.parametrize(("T", "B"), [(0, 3), (4, 0), (0, 0)])
def test_empty_batches(T, B):
    lstm = clstm.LSTM(3, 4, bidirectional=True)
    y, _, tape = lstm.forward(np.zeros((T, B, 3)), mask=np.zeros((T, B), bool))
    assert y.shape == (T, B, 8) and lstm.backward(tape, y)[0].shape == (T, B, 3)


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (np.ones((2, 5), bool), ValueError, r"mask has shape \(2, 5\), but \(5, 2\) is expected: one value per step"),
        (np.ones(5, bool), ValueError, r"mask has shape \(5,\), but \(5, 2\) is expected"),
        (np.ones((5, 2)), TypeError, "mask has dtype float64, but bool is expected"),
        (np.ones((5, 2), int), TypeError, "mask has dtype int64, but bool is expected"),
        ([[True], [True, False]], ValueError, "mask is no array"),
        (np.ma.masked_array(np.ones((4, 2), bool), True), TypeError, "mask is an array with masked values"),
    ],
)
def test_what_is_no_mask_is_refused(mask, error, message):
    lstm = clstm.LSTM(3, 4)
    for call in (lstm, lstm.forward):
        with pytest.raises(error, match=message):
            call(np.zeros((5, 2, 3)), mask=mask)


def test_a_mask_and_lengths_exclude_each_other():
    lstm, x = clstm.LSTM(3, 4), np.zeros((5, 2, 3))
    with pytest.raises(ValueError, match="lengths and mask are given, but one of them is expected"):
        lstm(x, lengths=[5, 2], mask=np.ones((5, 2), bool))
    with pytest.raises(ValueError, match="mask is given, but None is expected: a PackedSequence has its own lengths"):
        lstm(clstm.pack_sequence(list(x)), mask=np.ones((2, 5), bool))
