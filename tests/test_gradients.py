"""Backpropagation through time, beside central differences and beside derivatives of the independent reference."""

import itertools

import numpy as np
import pytest
from derivatives import Loss, assert_close, check_central_differences, unit_vectors
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import Batch, Problem, assert_same_bytes, outputs, problems

import clstm

GIVEN = [set(names) for n in range(4) for names in itertools.combinations(("dy", "dh_n", "dc_n"), n)]


small = {"sizes": (1, 2, 3, 5), "layers": (1, 2), "batches": (1, 2, 3), "steps": (1, 2, 4), "dtype": "float64"}


@settings(max_examples=40)
@given(problems(**small), st.sampled_from(GIVEN))
def test_every_element_agrees_with_central_differences(problem, given):
    problem = problem._replace(hidden_size=min(problem.hidden_size, 3))
    loss = Loss(problem, given)
    for name, gradient in loss.gradients().items():
        if gradient.size <= 40:
            found = [loss.central_difference(name, vector) for vector in unit_vectors(gradient.shape)]
            assert_close(np.reshape(found, gradient.shape), gradient, 1e-7, name)


@settings(max_examples=60)
@given(
    problems(sizes=(1, 2, 5, 9, 17), batches=(1, 2, 5, 8), steps=(1, 2, 7, 12), dtype="float64"), st.sampled_from(GIVEN)
)
def test_directional_derivatives_agree_with_central_differences(problem, given):
    loss = Loss(problem, given)
    rng = np.random.default_rng(problem.seed)
    for name, gradient in loss.gradients().items():
        norm = np.linalg.norm(gradient)
        directions = [rng.standard_normal(gradient.shape), gradient]  # along itself, the derivative is the norm
        for direction in directions[: 1 + (norm > 0)]:
            direction = direction / np.linalg.norm(direction)
            found = loss.central_difference(name, direction)
            assert abs(found - np.sum(gradient * direction)) <= 1e-7 * norm + 1e-12 * (norm == 0), name


@settings(max_examples=60)
@given(problems(sizes=(1, 3, 8, 17), batches=(1, 2, 5), layers=(1, 2, 3), steps=(1, 2, 7)), st.sampled_from(GIVEN))
def test_gradients_agree_with_the_derivative_of_the_reference(problem, given):
    loss = Loss(problem, given)
    rng = np.random.default_rng(problem.seed)
    for name, gradient in loss.gradients().items():
        assert gradient.dtype == problem.dtype
        assert gradient.shape == loss.arguments[name].shape
        direction = rng.choice([-1.0, 1.0], gradient.shape)
        found = np.sum(gradient * direction, dtype=np.float64)
        tolerance = {"float32": 3e-6, "float64": 1e-14}[problem.dtype] * np.sqrt(gradient.size)
        assert abs(found - loss.complex_step(name, direction)) <= tolerance * (1 + np.linalg.norm(gradient)), name


@pytest.mark.parametrize(("I", "H"), [(129, 65), (65, 129), (1, 127), (127, 1), (31, 33)])
def test_odd_sizes_agree_with_the_derivative_of_the_reference(I, H):
    loss = Loss(Problem(I, H, 2, bidirectional=True, dtype="float64", T=3, B=2, with_lengths=True))
    rng = np.random.default_rng(0)
    for name, gradient in loss.gradients().items():
        direction = rng.choice([-1.0, 1.0], gradient.shape)
        expected = loss.complex_step(name, direction)
        assert abs(np.sum(gradient * direction) - expected) <= 1e-12 * (1 + np.linalg.norm(gradient)), name


def test_a_long_sequence_agrees_with_the_derivative_of_the_reference():
    """More steps than are handled at once, so that what is carried from one run of steps to the next counts."""
    for B in (1, 3):
        loss = Loss(Problem(2, 5, 2, bidirectional=True, dtype="float64", T=700, B=B, with_lengths=True))
        rng = np.random.default_rng(0)
        for name, gradient in loss.gradients().items():
            direction = rng.choice([-1.0, 1.0], gradient.shape)
            expected = loss.complex_step(name, direction)
            assert abs(np.sum(gradient * direction) - expected) <= 1e-12 * (1 + np.linalg.norm(gradient)), name


@settings(max_examples=25)
@given(problems(**small | {"layers": (2, 3)}), st.sampled_from((0.2, 0.5, 0.9)))
def test_gradients_through_dropout_agree_with_central_differences(problem, dropout):
    check_central_differences(Loss(problem, dropout=dropout), problem.seed)


def test_missing_gradients_are_zeros():
    problem = Problem(3, 4, 2, bidirectional=True, with_lengths=True)
    lstm, batch = problem.lstm(), problem.batch()
    _, _, tape = lstm.forward(batch.x, batch.state, batch.lengths)
    dh_n, dc_n = batch.dstate
    zeros_y, zeros = np.zeros_like(batch.dy), np.zeros_like(dh_n)
    for some, full in [
        ((None, None), (zeros_y, (zeros, zeros))),
        ((batch.dy, None), (batch.dy, (zeros, zeros))),
        ((None, (dh_n, None)), (zeros_y, (dh_n, zeros))),
        ((None, (None, dc_n)), (zeros_y, (zeros, dc_n))),
        ((batch.dy, (None, None)), (batch.dy, (zeros, zeros))),
    ]:
        assert_same_bytes(gradients(lstm, tape, *some), gradients(lstm, tape, *full))
    for name, array in gradients(lstm, tape, None, None).items():
        assert not array.any(), name


def gradients(lstm, tape, dy=None, dstate=None):
    dx, (dh_0, dc_0), grads = lstm.backward(tape, dy, dstate)
    return {"dx": dx, "dh_0": dh_0, "dc_0": dc_0} | grads


@pytest.fixture
def recorded():
    """A network, a batch, a tape of it and its gradients."""
    problem = Problem(5, 7, 2, bidirectional=True, T=9, B=4, with_lengths=True)
    lstm, batch = problem.lstm(dropout=0.3), problem.batch()
    _, _, tape = lstm.forward(batch.x, batch.state, batch.lengths)
    return lstm, batch, tape, gradients(lstm, tape, batch.dy, batch.dstate)


def test_backward_again_gives_the_same_bytes_in_new_arrays(recorded):
    lstm, batch, tape, first = recorded
    kept = {name: array.copy() for name, array in first.items()}
    second = gradients(lstm, tape, batch.dy, batch.dstate)
    for array in second.values():
        array += 1
    assert_same_bytes(first, kept)
    assert_same_bytes(gradients(lstm, tape, batch.dy, batch.dstate), kept)


def test_gradients_of_other_losses_do_not_mix(recorded):
    lstm, batch, tape, first = recorded
    gradients(lstm, tape, 100 * batch.dy, None)
    assert_same_bytes(gradients(lstm, tape, batch.dy, batch.dstate), first)


def test_changes_after_forward_do_not_reach_the_gradients(recorded):
    lstm, batch, tape, first = recorded
    for array in (batch.x, *batch.state, batch.lengths):
        array[...] = 1
    for array in lstm.parameters().values():
        array *= -2
    assert_same_bytes(gradients(lstm, tape, batch.dy, batch.dstate), first)


def test_later_calls_do_not_touch_a_tape(recorded):
    lstm, batch, tape, first = recorded
    for _ in range(5):
        _, _, other = lstm.forward(batch.x[:3] + 1)
        lstm.backward(other, batch.dy[:3])
        lstm(batch.x)
        del other
    assert_same_bytes(gradients(lstm, tape, batch.dy, batch.dstate), first)


def test_interleaved_tapes_are_independent():
    problem = Problem(3, 4, 2, T=6, B=3)
    lstm = problem.lstm()
    batches = [problem._replace(seed=seed, B=B).batch() for seed, B in enumerate((3, 1, 5, 2))]
    alone = [outputs(lstm, batch) for batch in batches]
    tapes = [lstm.forward(batch.x, batch.state)[2] for batch in batches]
    for tape, batch, expected in reversed(list(zip(tapes, batches, alone, strict=True))):
        found = gradients(lstm, tape, batch.dy, batch.dstate)
        assert_same_bytes(found, {name: expected[name] for name in found})


def test_incoming_gradients_are_not_modified(recorded):
    lstm, batch, tape, first = recorded
    kept = batch.dy.copy(), *(array.copy() for array in batch.dstate)
    incoming = batch.dy, *batch.dstate
    for array in incoming:
        array.flags.writeable = False
    assert_same_bytes(gradients(lstm, tape, batch.dy, batch.dstate), first)
    for array, expected in zip(incoming, kept, strict=True):
        assert_same_bytes(array, expected)


@pytest.mark.parametrize("batch_first", [False, True])
def test_incoming_gradients_of_any_layout(batch_first):
    problem = Problem(5, 7, T=9, B=4)
    lstm = problem.lstm(batch_first=batch_first)
    _, _, tape = lstm.forward(problem.batch().x.swapaxes(0, 1) if batch_first else problem.batch().x)
    dy = np.array(problem.batch().dy.swapaxes(0, 1) if batch_first else problem.batch().dy)
    expected = gradients(lstm, tape, dy, problem.batch().dstate)
    wide = np.zeros((*dy.shape[:2], 14), np.float32)
    wide[..., ::2] = dy
    dstate = tuple(np.asfortranarray(array) for array in problem.batch().dstate)
    for layout in (np.asfortranarray(dy), wide[..., ::2], dy[::-1].copy()[::-1], dy.astype(np.float64), dy.tolist()):
        assert_same_bytes(gradients(lstm, tape, layout, dstate), expected)
    ones = np.ones_like(dy)
    for one in (np.float32(1), np.ones(7, np.float32), np.ones(1, np.float64)):
        broadcast = np.broadcast_to(one, dy.shape)
        assert_same_bytes(gradients(lstm, tape, broadcast), gradients(lstm, tape, ones))


def test_a_tape_outlives_its_network(recorded):
    lstm, batch, tape, first = recorded
    del lstm, recorded
    other = clstm.LSTM(5, 7, 2, bidirectional=True, dropout=0.3)
    with pytest.raises(ValueError, match="tape is .*, but one that this layer's forward returned is expected"):
        other.backward(tape)
    assert repr(tape).startswith("Tape(9 steps, 4 rows")


def test_the_tape_of_another_network_is_refused(recorded):
    lstm, batch, tape, _ = recorded
    twin = clstm.LSTM(**lstm.config())
    for wrong in (twin.forward(batch.x)[2], None, "tape", object()):
        with pytest.raises(ValueError, match="tape is .*, but one that this layer's forward returned is expected"):
            lstm.backward(wrong)


@pytest.mark.parametrize(
    ("dy", "dstate", "message"),
    [
        (np.zeros((9, 4, 7)), None, r"dy has 7 features, but the output's size is 14"),
        (np.zeros((9, 3, 14)), None, r"dy has 9 time steps and 3 rows, but 9 time steps and 4 rows are expected"),
        (np.zeros((8, 4, 14)), None, r"dy has 8 time steps and 4 rows, but 9 time steps and 4 rows are expected"),
        (np.zeros((9, 14)), None, r"dy has shape \(9, 14\), but \(time, batch, 14\) is expected"),
        (None, (np.zeros((4, 4, 6)), None), r"dh_n has shape \(4, 4, 6\), but \(4, 4, 7\) is expected"),
        (None, (None, np.zeros((2, 4, 7))), r"dc_n has shape \(2, 4, 7\), but \(4, 4, 7\) is expected"),
    ],
)
def test_incoming_gradients_of_wrong_shape_are_refused(recorded, dy, dstate, message):
    lstm, _, tape, _ = recorded
    with pytest.raises(ValueError, match=message):
        lstm.backward(tape, dy, dstate)


@pytest.mark.parametrize(
    ("dy", "dstate", "message"),
    [
        ("no", None, "dy has dtype <U2, but real numbers are expected"),
        (np.zeros((9, 4, 14), complex), None, "dy has dtype complex128, but real numbers are expected"),
        (None, np.zeros((4, 4, 7)), r"dstate is a ndarray, but a pair \(dh_n, dc_n\) is expected"),
        (None, (None, None, None), r"dstate is a tuple of length 3, but a pair \(dh_n, dc_n\) is expected"),
    ],
)
def test_incoming_gradients_of_wrong_type_are_refused(recorded, dy, dstate, message):
    lstm, _, tape, _ = recorded
    with pytest.raises(TypeError, match=message):
        lstm.backward(tape, dy, dstate)


def test_truncated_backpropagation_sends_no_gradient_across_the_cut():
    problem = Problem(3, 4, 2, T=10, B=3)
    lstm, batch = problem.lstm(), problem.batch()
    _, state = lstm(batch.x[:5], batch.state)
    _, _, tape = lstm.forward(batch.x[5:], state)
    truncated = gradients(lstm, tape, batch.dy[5:])
    alone = problem.lstm()
    _, _, tape = alone.forward(batch.x[5:], tuple(array.copy() for array in state))
    assert_same_bytes(truncated, gradients(alone, tape, batch.dy[5:]))


def test_empty_batches_have_empty_or_zero_gradients():
    for T, B in [(0, 3), (3, 0), (0, 0)]:
        problem = Problem(3, 4, 2, bidirectional=True, T=T, B=B)
        lstm, batch = problem.lstm(), problem.batch()
        found = outputs(lstm, batch)
        assert found["dx"].shape == (T, B, 3)
        for name in lstm.parameters():
            assert found[name].shape == lstm.parameters()[name].shape
            assert not found[name].any()
        if T == 0:  # the states pass through, and so do their gradients
            assert_same_bytes(found["dh_0"], batch.dstate[0])
            assert_same_bytes(found["dc_0"], batch.dstate[1])


def test_gradients_of_rows_without_steps_pass_through():
    problem = Problem(3, 4, 2, bidirectional=True, T=5, B=3)
    lstm = problem.lstm()
    batch: Batch = problem.batch()._replace(lengths=np.array([0, 5, 0]))
    found = outputs(lstm, batch)
    for name, array in zip(("dh_0", "dc_0"), batch.dstate, strict=True):
        assert_same_bytes(found[name][:, [0, 2]], array[:, [0, 2]])
    assert not found["dx"][:, [0, 2]].any()
    alone = outputs(lstm, batch.rows([1]))
    for name in lstm.parameters():
        assert_same_bytes(found[name], alone[name])
