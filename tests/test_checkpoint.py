"""Training with `checkpoint`: the same bytes in less memory."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import Problem, assert_same_bytes, named, problems, regularizers, variant_problems

import clstm

few = {"sizes": (1, 3, 8, 17), "batches": (1, 2, 5, 9), "layers": (1, 2, 3), "steps": (0, 1, 4, 9, 21)}
CHECKPOINTS = st.sampled_from((True, 1, 2, 5, 100))


def step(lstm, batch, **options):
    """All results of a training step, by name."""
    y, state, tape = lstm.forward(batch.x, batch.state, batch.lengths, **options)
    dx, dstate, grads = lstm.backward(tape, batch.dy, batch.dstate)
    return named(y, state) | {"dx": dx, "dh_0": dstate[0], "dc_0": dstate[1]} | grads


def check_bytes(problem, checkpoint, **options):
    batch = problem.batch()
    found = step(problem.lstm(**options), batch, checkpoint=checkpoint)
    assert_same_bytes(found, step(problem.lstm(**options), batch))


@settings(max_examples=80)
@given(problems(**few), CHECKPOINTS)
def test_outputs_and_gradients_have_the_same_bytes(problem, checkpoint):
    check_bytes(problem, checkpoint)


@settings(max_examples=60)
@given(variant_problems(**few), CHECKPOINTS, regularizers())
def test_variants(problem, checkpoint, options):
    check_bytes(problem, checkpoint, **options)


@settings(max_examples=40)
@given(problems(**few | {"layers": (2, 3)}), CHECKPOINTS)
def test_dropout_masks_are_those_of_the_whole_sequence(problem, checkpoint):
    check_bytes(problem, checkpoint, dropout=0.5)


@pytest.mark.parametrize("isa", clstm._core.isas())
@pytest.mark.parametrize("threads", [1, 3])
def test_threads_and_instruction_sets(isa, threads):
    """Large enough for threads to share the units of a step and the rows of the weights."""
    clstm._core.set_isa(isa)
    clstm.set_num_threads(threads)
    for bidirectional in (False, True):
        for B in (1, 12):
            check_bytes(Problem(9, 213, 2, bidirectional, T=11, B=B), True, dropout=0.3)


def test_any_gradient_may_be_missing():
    for bidirectional in (False, True):
        problem = Problem(3, 5, 2, bidirectional, T=11, B=3)
        batch = problem.batch()
        for dy, dstate in ((None, batch.dstate), (batch.dy, None), (None, None), (None, (None, batch.dstate[1]))):
            given = batch._replace(dy=dy, dstate=dstate)
            assert_same_bytes(step(problem.lstm(), given, checkpoint=4), step(problem.lstm(), given))


@pytest.mark.parametrize("options", [{"batch_first": True}, {}])
def test_masks_layouts_and_packed_sequences(options):
    problem = Problem(3, 4, 2, bidirectional=True, T=12, B=4)
    batch, lstm = problem.batch(), problem.lstm(**options)
    mask = np.random.default_rng(0).random((12, 4)) < 0.6
    x, dy = batch.x, batch.dy
    if options:
        x, dy, mask = x.swapaxes(0, 1), dy.swapaxes(0, 1), mask.T
    for arguments in ((x, None, None, mask), (x[0], None), (clstm.pack_sequence([x[0], x[1][:3]]),)):
        results = []
        for checkpoint in (False, 5):
            y, state, tape = lstm.forward(*arguments, checkpoint=checkpoint)
            gradients = lstm.backward(tape, y)
            results.append({"y": np.asarray(getattr(y, "data", y)), "dx": np.asarray(getattr(gradients[0], "data", 0))})
            results[-1] |= gradients[2]
        assert_same_bytes(*results)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_weights_states_and_outputs_may_change_before_backward_and_the_tape_serves_twice(bidirectional):
    problem = Problem(3, 4, 2, bidirectional, T=9)
    lstm, batch = problem.lstm(), problem.batch()
    expected = step(problem.lstm(), batch)
    y, state, tape = lstm.forward(batch.x, batch.state, checkpoint=True)
    view = lstm.weight_hh_l0
    for array in (view, y, *state, *batch.state):
        array *= 2
    for _ in range(2):
        dx, _, grads = lstm.backward(tape, batch.dy, batch.dstate)
        assert_same_bytes({"dx": dx} | grads, {name: expected[name] for name in ("dx", *grads)})


def test_sums_go_on_from_what_they_are_given():
    """`accumulate` of the C interface, for every kind of parameter."""
    variant = {"proj_size": 2, "peepholes": True, "learn_initial_state": True}
    problem = Problem(3, 4, 2, True, T=6, dtype="float64", with_state=False, variant=variant)
    lstm, batch = problem.lstm(), problem.batch()
    for x in (batch.x, batch.x[:0]):
        y, _, tape = lstm.forward(x)
        dx, dstate, grads = lstm.backward(tape, y, batch.dstate)
        sums = [np.full(grad.shape, 7.0) for grad in grads.values()]
        clstm._core.backward(tape, y, *batch.dstate, None, None, None, sums, accumulate=True)
        for name, found in zip(grads, sums, strict=True):
            np.testing.assert_allclose(found, 7 + grads[name], rtol=1e-13, err_msg=name)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_nan_passes_through(bidirectional):
    problem = Problem(3, 4, bidirectional=bidirectional, T=9, B=2)
    lstm, batch = problem.lstm(), problem.batch()
    batch.x[4, 1] = np.nan
    found, expected = (step(lstm, batch, checkpoint=checkpoint) for checkpoint in (2, False))
    for name in found:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("t", [0, 4, 8])
def test_an_x_that_has_changed_is_noticed(bidirectional, t):
    lstm, x = clstm.LSTM(3, 4, bidirectional=bidirectional, seed=0), np.zeros((9, 2, 3), np.float32)
    y, _, tape = lstm.forward(x, checkpoint=True)
    x[t, 0, 0] += 1
    with pytest.raises(ValueError, match="x has changed since forward"):
        lstm.backward(tape, y)


@pytest.mark.parametrize(
    ("checkpoint", "error", "message"),
    [
        (0, ValueError, "checkpoint is 0, but at least 1 is expected"),
        (-3, ValueError, "checkpoint is -3, but at least 1 is expected"),
        (2.0, TypeError, "checkpoint is 2.0, but an integer is expected"),
        (None, TypeError, "checkpoint is None, but an integer is expected"),
    ],
)
def test_what_is_no_number_of_steps_is_refused(checkpoint, error, message):
    lstm = clstm.LSTM(3, 4, 2, dropout=0.5)
    with pytest.raises(error, match=message):
        lstm.forward(np.zeros((5, 2, 3)), checkpoint=checkpoint)
    assert lstm.dropout_counter == 0


def test_a_tape_of_another_layer_is_refused():
    x = np.zeros((5, 2, 3))
    tape = clstm.LSTM(3, 4).forward(x, checkpoint=True)[2]
    with pytest.raises(ValueError, match="but one that this layer's forward returned is expected"):
        clstm.LSTM(3, 4).backward(tape)


MEMORY = """
import sys
import numpy as np
import clstm

T, B, I, H, layers, bidirectional, checkpoint = map(int, sys.argv[1:])
clstm.set_num_threads(1)
lstm = clstm.LSTM(I, H, layers, bidirectional=bool(bidirectional), seed=0)
x, dy = np.ones((T, B, I), np.float32), np.ones((T, B, (1 + bidirectional) * H), np.float32)

def peak():
    with open("/proc/self/status") as status:
        return 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))

def train(x, dy):
    y, _, tape = lstm.forward(x, checkpoint=bool(checkpoint))
    dx = lstm.backward(tape, dy)[0]
    return y.nbytes + dx.nbytes

train(x[:50], dy[:50])
before = peak()
results = train(x, dy)
print(peak() - before - results)
"""


def test_lengths_may_change_after_forward():
    problem = Problem(T=9, B=2)
    batch, found = problem.batch(), []
    for checkpoint in (False, True):
        lengths = np.array([9, 5])
        lstm = problem.lstm()
        y, _, tape = lstm.forward(batch.x, lengths=lengths, checkpoint=checkpoint)
        lengths[:] = 1
        found.append(lstm.backward(tape, y)[2])
    assert_same_bytes(*found)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak of memory from /proc")
@pytest.mark.parametrize(("layers", "bidirectional"), [(1, False), (2, False), (1, True), (2, True)])
def test_memory(layers, bidirectional):
    """Beyond x, y and their gradients, the memory of 2500 steps is that of about two segments of 50. A bidirectional
    stack keeps the outputs of the layers below the last, and their gradients."""

    def measure(checkpoint):
        numbers = (2500, 16, 8, 64, layers, bidirectional, checkpoint)
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, *(str(int(n)) for n in numbers)], capture_output=True, text=True, check=True
        )
        return int(done.stdout)

    between = 2 * (layers - 1) * 2 * 2500 * 16 * 64 * 4 * bidirectional
    whole = measure(False)
    assert whole > 0.9 * layers * (1 + bidirectional) * 2500 * 16 * 6 * 64 * 4
    assert measure(True) < between + whole / 10
