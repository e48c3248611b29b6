"""The promise about bits, of test_bits, for variants of the LSTM."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import (
    ISAS,
    ODD_SIZES,
    PER_ROW,
    VARIANT_SIZES,
    Problem,
    assert_same_bytes,
    called,
    each_variant,
    outputs,
    pieces,
    rows_of,
    variant_problems,
)

import clstm
from clstm import _core


@pytest.mark.parametrize("neutral", [{"clip": 1e30}, {"cell_clip": 1e30}, {"peepholes": True}], ids=str)
def test_a_variant_that_changes_nothing_has_the_bits_of_the_plain_network(neutral):
    plain = Problem(5, 33, 2, True, T=9, B=7, with_lengths=True)
    variant = plain._replace(variant=neutral)
    lstm = variant.lstm()
    lstm.load_state_dict(plain.lstm().state_dict() | {k: 0 * v for k, v in lstm.state_dict().items() if "_ch_" in k})
    expected = outputs(plain.lstm(), plain.batch())
    found = outputs(lstm, plain.batch())
    assert_same_bytes({name: found[name] for name in expected}, expected)


@settings(max_examples=50)
@given(variant_problems(**VARIANT_SIZES | {"batches": (2, 5, 17, 70)}), st.data())
def test_a_row_does_not_depend_on_its_batch(problem, data):
    lstm, batch = problem.lstm(), problem.batch()
    row = data.draw(st.integers(0, problem.B - 1))
    assert_same_bytes(rows_of(outputs(lstm, batch.rows([row])), [0]), rows_of(outputs(lstm, batch), [row]))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@each_variant
def test_results_do_not_depend_on_the_number_of_threads(variant, dtype):
    problem = Problem(17, 65, 2, True, dtype=dtype, T=20, B=33, with_lengths=True, variant=variant)
    lstm, batch, found = problem.lstm(), problem.batch(), {}
    for threads in (1, 2, 3, 5):
        clstm.set_num_threads(threads)
        found[threads] = outputs(lstm, batch)
        assert_same_bytes(found[threads], found[1])


@settings(max_examples=40)
@given(variant_problems(**VARIANT_SIZES | {"steps": (2, 7, 15)}, bidirectional=False, with_lengths=False))
def test_results_do_not_depend_on_how_time_was_cut(problem):
    lstm, batch = problem.lstm(), problem.batch()
    whole = outputs(lstm, batch)
    for size in (1, 7):
        y, tapes, state = [], [], batch.state
        for piece in pieces(problem.T, size):
            part, state, tape = lstm.forward(batch.x[piece], state)
            y.append(part)
            tapes.append((piece, tape))
        dx, dstate = np.empty_like(batch.x), batch.dstate
        for piece, tape in reversed(tapes):
            dx[piece], dstate, _ = lstm.backward(tape, batch.dy[piece], dstate)
        found = {
            "y": np.concatenate(y),
            "h_n": state[0],
            "c_n": state[1],
            "dx": dx,
            "dh_0": dstate[0],
            "dc_0": dstate[1],
        }
        assert_same_bytes(found, {name: whole[name] for name in PER_ROW})


@settings(max_examples=40)
@given(variant_problems(zoneout=True, **VARIANT_SIZES, bidirectional=False, with_lengths=False))
def test_a_stream_gives_the_outputs_of_a_call(problem):
    lstm, batch = problem.lstm(), problem.batch()
    stream = lstm.stream(problem.B)
    if batch.state:
        stream.state = batch.state
    y = np.stack([stream.step(x_t) for x_t in batch.x])
    assert_same_bytes({"y": y, "h_n": stream.state[0], "c_n": stream.state[1]}, called(lstm, batch))


@settings(max_examples=80)
@given(variant_problems(**VARIANT_SIZES | {"sizes": ODD_SIZES}))
def test_results_do_not_depend_on_the_instruction_set(problem):
    found = []
    for isa in ISAS:
        _core.set_isa(isa)
        found.append(outputs(problem.lstm(), problem.batch()))
        assert_same_bytes(found[-1], found[0])


@each_variant
def test_nan_and_infinity_stay_in_their_row(variant):
    problem = Problem(5, 9, 1, True, T=6, B=4, variant=variant)
    lstm, batch = problem.lstm(), problem.batch()
    expected = rows_of(outputs(lstm, batch), [0, 3])
    batch.x[2, 1], batch.x[3, 2] = np.nan, np.inf
    found = outputs(lstm, batch)
    assert_same_bytes(rows_of(found, [0, 3]), expected)
    assert np.isnan(found["y"][2:, 1, : problem.features]).all()
    assert np.isfinite(found["y"][:2, 1, : problem.features]).all()
