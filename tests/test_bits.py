"""The promise about bits: results do not depend on the batch around a sequence, the number of threads, the way time was
cut, or the instruction set. Every comparison is of bytes."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import (
    ISAS,
    ODD_BATCHES,
    ODD_SIZES,
    PER_ROW,
    Problem,
    assert_same_bytes,
    called,
    outputs,
    pieces,
    problems,
    rows_of,
)

import clstm
from clstm import _core

each_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])


# ---- 1: the batch around a sequence ----


@settings(max_examples=60)
@given(problems(batches=(2, 3, 5, 7, 17, 33)), st.data())
def test_a_row_does_not_depend_on_its_batch(problem, data):
    lstm, batch = problem.lstm(), problem.batch()
    whole = outputs(lstm, batch)
    row = data.draw(st.integers(0, problem.B - 1))
    order = np.random.default_rng(problem.seed).permutation(problem.B)
    some = order[: data.draw(st.integers(1, problem.B))]
    for index in ([row], order, some):
        assert_same_bytes(rows_of(outputs(lstm, batch.rows(index)), range(len(index))), rows_of(whole, index))


@pytest.mark.parametrize(("hidden_size", "dtype"), [(1024, "float32"), (725, "float64")])
def test_a_row_of_large_weights_does_not_depend_on_its_batch(hidden_size, dtype):
    """Of weights beyond 16 MiB up to 144 rows go together, of smaller ones 72."""
    clstm.set_num_threads(1)
    problem = Problem(3, hidden_size, 1, False, dtype=dtype, T=2, B=145)
    lstm, batch = problem.lstm(), problem.batch()
    whole = outputs(lstm, batch)
    for index in ([0], [71, 72, 73, 74], [143, 144], range(100), range(144)):
        assert_same_bytes(rows_of(outputs(lstm, batch.rows(list(index))), range(len(index))), rows_of(whole, index))


@settings(max_examples=30)
@given(problems(batches=(3, 5, 17), with_lengths=True))
def test_a_row_does_not_depend_on_its_neighbours(problem):
    lstm, batch = problem.lstm(), problem.batch()
    row = problem.B // 2
    expected = rows_of(outputs(lstm, batch), [row])
    x, lengths = np.full_like(batch.x, 1e30), np.roll(batch.lengths, 1)
    x[:, 0] = np.nan
    x[:, row], lengths[row] = batch.x[:, row], batch.lengths[row]
    found = outputs(lstm, batch._replace(x=x, lengths=lengths, dy=np.where(x[..., :1] == 1e30, np.inf, batch.dy)))
    assert_same_bytes(rows_of(found, [row]), expected)


@settings(max_examples=40)
@given(problems(batches=(1, 2, 5, 17), with_lengths=True))
def test_a_row_does_not_depend_on_the_padding_after_it(problem):
    lstm, batch = problem.lstm(), problem.batch()
    whole = outputs(lstm, batch)
    for row, length in enumerate(batch.lengths):
        alone = batch.rows([row])
        short = alone._replace(x=alone.x[:length], dy=alone.dy[:length], lengths=None)
        found = outputs(lstm, short)
        for name, axis in PER_ROW.items():
            expected = np.take(whole[name], [row], axis)
            assert_same_bytes(found[name], expected[:length] if name in ("y", "dx") else expected)


# ---- 2: threads ----


@each_dtype
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(
    ("I", "H", "T", "B"),
    [(17, 65, 24, 33), (65, 61, 40, 17), (3, 129, 50, 7), (129, 90, 70, 1), (30, 150, 70, 1), (150, 130, 19, 2)],
)
def test_results_do_not_depend_on_the_number_of_threads(I, H, T, B, bidirectional, dtype):
    problem = Problem(I, H, 2, bidirectional, dtype=dtype, T=T, B=B, with_lengths=H < 130 and B > 1)
    lstm, batch = problem.lstm(dropout=0.4), problem.batch()
    found = {}
    for threads in (1, 2, 3, 5):
        clstm.set_num_threads(threads)
        lstm.dropout_counter = 0
        _, _, tape = lstm.forward(batch.x, batch.state, batch.lengths)
        dx, dstate, grads = lstm.backward(tape, batch.dy, batch.dstate)
        found[threads] = called(lstm, batch) | {"dx": dx, "dh_0": dstate[0], "dc_0": dstate[1]} | grads
        assert_same_bytes(found[threads], found[1])


# ---- 3: the way time was cut ----


@settings(max_examples=50)
@given(problems(steps=(2, 7, 15, 23), bidirectional=False, with_lengths=False))
def test_outputs_do_not_depend_on_how_time_was_cut(problem):
    lstm, batch = problem.lstm(), problem.batch()
    expected = called(lstm, batch)
    for size in (1, 7):
        y, state = [], batch.state
        for piece in pieces(problem.T, size):
            part, state = lstm(batch.x[piece], state)
            y.append(part)
        assert_same_bytes({"y": np.concatenate(y), "h_n": state[0], "c_n": state[1]}, expected)


@settings(max_examples=40)
@given(problems(steps=(2, 7, 15), bidirectional=False, with_lengths=False))
def test_a_stream_gives_the_outputs_of_a_call(problem):
    lstm, batch = problem.lstm(), problem.batch()
    expected = called(lstm, batch)
    stream = lstm.stream(problem.B)
    if batch.state:
        stream.state = batch.state
    y = np.stack([stream.step(x_t) for x_t in batch.x])
    assert_same_bytes({"y": y, "h_n": stream.state[0], "c_n": stream.state[1]}, expected)


@settings(max_examples=50)
@given(problems(steps=(2, 7, 15, 23), bidirectional=False, with_lengths=False))
def test_gradients_do_not_depend_on_how_time_was_cut(problem):
    """The gradients of x and of the initial states, with the state's gradient carried from piece to piece. (Those of
    the parameters are sums over the pieces, which the caller adds up.)"""
    lstm, batch = problem.lstm(), problem.batch()
    whole = outputs(lstm, batch)
    expected = {name: whole[name] for name in ("dx", "dh_0", "dc_0")}
    for size in (1, 7):
        tapes, state = [], batch.state
        for piece in pieces(problem.T, size):
            _, state, tape = lstm.forward(batch.x[piece], state)
            tapes.append((piece, tape))
        dx, dstate = np.empty_like(batch.x), batch.dstate
        for piece, tape in reversed(tapes):
            dx[piece], dstate, _ = lstm.backward(tape, batch.dy[piece], dstate)
        assert_same_bytes({"dx": dx, "dh_0": dstate[0], "dc_0": dstate[1]}, expected)


@each_dtype
@pytest.mark.parametrize("B", [1, 2, 33])
def test_long_sequences_do_not_depend_on_how_time_was_cut(B, dtype):
    """Longer than the runs of steps that a call handles at once, which is another way to cut time."""
    problem = Problem(5, 17, 2, dtype=dtype, T=613, B=B)
    lstm, batch = problem.lstm(), problem.batch()
    whole = outputs(lstm, batch)
    first, state, first_tape = lstm.forward(batch.x[:307], batch.state)
    second, state, second_tape = lstm.forward(batch.x[307:], state)
    dx_second, dstate, _ = lstm.backward(second_tape, batch.dy[307:], batch.dstate)
    dx_first, dstate, _ = lstm.backward(first_tape, batch.dy[:307], dstate)
    assert_same_bytes(np.concatenate([first, second]), whole["y"])
    assert_same_bytes(np.concatenate([dx_first, dx_second]), whole["dx"])
    assert_same_bytes(np.stack(state), np.stack([whole["h_n"], whole["c_n"]]))
    assert_same_bytes(np.stack(dstate), np.stack([whole["dh_0"], whole["dc_0"]]))


# ---- 4: instruction sets ----


def on_each_isa(problem, **options):
    """Results of a new network on every instruction set."""
    for isa in ISAS:
        _core.set_isa(isa)
        yield outputs(problem.lstm(**options), problem.batch())


@settings(max_examples=80)
@given(problems())
def test_results_do_not_depend_on_the_instruction_set(problem):
    first, *others = on_each_isa(problem)
    for other in others:
        assert_same_bytes(other, first)


@each_dtype
@pytest.mark.parametrize("H", ODD_SIZES)
def test_no_hidden_size_depends_on_the_instruction_set(H, dtype):
    for B in ODD_BATCHES:
        first, *others = on_each_isa(Problem(5, H, bidirectional=True, dtype=dtype, T=3, B=B, with_lengths=True))
        for other in others:
            assert_same_bytes(other, first)


@each_dtype
def test_dropout_does_not_depend_on_the_instruction_set(dtype):
    problem = Problem(3, 33, 3, dtype=dtype, B=7)
    batch, found = problem.batch(), []
    for isa in ISAS:
        _core.set_isa(isa)
        found.append(problem.lstm(dropout=0.5).forward(batch.x)[0])
        assert_same_bytes(found[-1], found[0])


@each_dtype
def test_streams_do_not_depend_on_the_instruction_set(dtype):
    problem = Problem(7, 33, 2, dtype=dtype, T=10, B=3)
    x, found = problem.batch().x, []
    for isa in ISAS:
        _core.set_isa(isa)
        stream = problem.lstm().stream(3)
        found.append(np.stack([stream.step(x_t) for x_t in x]))
        assert_same_bytes(found[-1], found[0])


@each_dtype
def test_functions_do_not_depend_on_the_instruction_set(dtype):
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(0, scale, 10007) for scale in (0.01, 1, 10, 100, 1000)]).astype(dtype)
    x = np.concatenate([x, np.array([0, -0.0, np.inf, -np.inf, 1e-30, 1e30], dtype)])
    for function in range(3):
        found = []
        for isa in ISAS:
            _core.set_isa(isa)
            found.append(_core.apply(function, x))
            assert_same_bytes(found[-1], found[0])


@each_dtype
def test_functions_are_accurate(dtype):
    """Within 2 ulp (float32) and 4 ulp (float64), beside a float type with more digits."""
    wide = np.float64 if dtype == "float32" else np.longdouble
    if np.finfo(wide).eps > 0.01 * np.finfo(dtype).eps:
        pytest.skip("this platform's longdouble is float64, which cannot judge float64")
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(0, scale, 200_000) for scale in (0.01, 0.3, 1, 4, 20)]).astype(dtype)
    z = x.astype(wide)
    for function, exact in enumerate([np.exp(z), 1 / (1 + np.exp(-z)), np.tanh(z)]):
        normal = (np.abs(exact) >= np.finfo(dtype).tiny) & (np.abs(exact) <= np.finfo(dtype).max)
        error = np.abs(_core.apply(function, x).astype(wide) - exact)[normal]
        assert np.max(error / np.spacing(np.abs(exact[normal]).astype(dtype))) <= (2 if dtype == "float32" else 4)


def digest(results):
    """One number of all bytes of a dict of arrays."""
    sha = hashlib.sha256()
    for name in sorted(results):
        sha.update(name.encode() + np.ascontiguousarray(results[name]).tobytes())
    return sha.hexdigest()


DIGESTED = [Problem(17, 33, 2, True, dtype=dtype, T=9, B=7, with_lengths=True) for dtype in ("float32", "float64")] + [
    Problem(65, 129, T=20, B=33)
]


@pytest.mark.parametrize("isa", ISAS)
def test_the_environment_selects_an_instruction_set_with_the_same_results(isa):
    code = (
        "import clstm, test_bits as t\n"
        "print(clstm.cpu_info()['isa'], *(t.digest(t.outputs(p.lstm(), p.batch())) for p in t.DIGESTED))"
    )
    environment = os.environ | {"CLSTM_ISA": isa, "PYTHONPATH": os.path.dirname(os.path.abspath(__file__))}
    printed = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    name, *digests = printed.stdout.split()
    assert name == isa
    assert digests == [digest(outputs(problem.lstm(), problem.batch())) for problem in DIGESTED]


def test_equal_calls_are_equal():
    problem = Problem(17, 33, 2, True, T=20, B=33, with_lengths=True)
    first = outputs(problem.lstm(), problem.batch())
    for _ in range(10):
        assert_same_bytes(outputs(problem.lstm(), problem.batch()), first)
