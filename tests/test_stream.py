"""Streams: one step at a time, with the state kept between calls."""

import gc
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import Problem, assert_same_bytes, called, problems

import clstm


@settings(max_examples=40)
@given(problems(sizes=(1, 3, 8, 17), bidirectional=False, with_lengths=False), st.data())
def test_calls_and_streams_can_hand_the_state_to_each_other(problem, data):
    lstm, batch = problem.lstm(), problem.batch()
    expected = called(lstm, batch)
    cut = data.draw(st.integers(0, problem.T))
    y, state = lstm(batch.x[:cut], batch.state)
    stream = lstm.stream(problem.B)
    stream.state = state
    steps = [stream.step(x_t)[None] for x_t in batch.x[cut:]]
    assert_same_bytes(np.concatenate([y, *steps]), expected["y"])
    assert_same_bytes(np.stack(stream.state), np.stack([expected["h_n"], expected["c_n"]]))


def test_a_single_stream_takes_x_with_and_without_batch_axis():
    lstm = clstm.LSTM(3, 4, 2, seed=0)
    x = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
    expected, _ = lstm(x)
    stream, same = lstm.stream(), lstm.stream(batch_size=1)
    for x_t, y_t in zip(x, expected, strict=True):
        y = stream.step(x_t)
        assert y.shape == (4,)
        assert_same_bytes(y, y_t)
        y = same.step(x_t[None])
        assert y.shape == (1, 4)
        assert_same_bytes(y[0], y_t)


def test_outputs_are_new_arrays_that_later_steps_leave_alone():
    stream = clstm.LSTM(3, 4, seed=0).stream()
    first = stream.step(np.ones(3))
    kept = first.copy()
    second = stream.step(np.ones(3))
    assert_same_bytes(first, kept)
    assert not np.array_equal(first, second)
    second[...] = 7  # nor does the caller reach the state
    assert not np.any(stream.state[0] == 7)


def test_out_receives_the_output():
    lstm = clstm.LSTM(3, 4, 2, seed=0)
    x = np.random.default_rng(0).standard_normal((6, 2, 3)).astype(np.float32)
    expected, _ = lstm(x)
    stream, y = lstm.stream(2), np.empty((6, 2, 4), np.float32)
    for x_t, y_t in zip(x, y, strict=True):
        assert stream.step(x_t, out=y_t) is y_t
    assert_same_bytes(y, expected)


def test_out_may_be_x():
    lstm = clstm.LSTM(4, 4, 2, seed=0)
    x = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)
    expected = lstm.stream(2).step(x)
    assert_same_bytes(lstm.stream(2).step(x, out=x), expected)


def frozen(array):
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("out", "found"),
    [
        (np.empty((2, 4)), r"float64 of shape \(2, 4\)"),
        (np.empty((2, 5), np.float32), r"float32 of shape \(2, 5\)"),
        (np.empty((1, 4), np.float32), r"float32 of shape \(1, 4\)"),
        (np.empty(8, np.float32), r"float32 of shape \(8,\)"),
        (np.empty((2, 8), np.float32)[:, ::2], r"float32 of shape \(2, 4\)"),
        (np.empty((4, 2), np.float32).T, r"float32 of shape \(2, 4\)"),
        (np.empty((2, 4), ">f4"), r">f4 of shape \(2, 4\)"),
        (frozen(np.empty((2, 4), np.float32)), r"float32 of shape \(2, 4\)"),
        ([[0.0] * 4] * 2, "list"),
        (5, "int"),
    ],
)
def test_wrong_out_is_refused_and_the_state_stays(out, found):
    stream = clstm.LSTM(3, 4, seed=0).stream(2)
    stream.step(np.ones((2, 3)))
    before = np.stack(stream.state)
    message = rf"out is {found}, but a writable contiguous float32 array of shape \(2, 4\) is expected"
    with pytest.raises(ValueError, match=message):
        stream.step(np.ones((2, 3)), out=out)
    assert_same_bytes(np.stack(stream.state), before)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.ones((2, 5)), ValueError, "x has 5 features, but input_size is 3"),
        (np.ones((3, 3)), ValueError, r"x has shape \(3, 3\), but \(2, 3\) is expected"),
        (np.ones(3), ValueError, r"x has shape \(3,\), but \(2, 3\) is expected"),
        (np.ones((1, 2, 3)), ValueError, r"x has shape \(1, 2, 3\), but \(2, 3\) is expected"),
        (1.0, ValueError, r"x has shape \(\), but \(2, 3\) is expected"),
        ([], ValueError, "x has 0 features, but input_size is 3"),
        (np.ones((2, 3), complex), TypeError, "x has dtype complex128, but real numbers are expected"),
        ("abc", TypeError, "x has dtype <U3, but real numbers are expected"),
        (None, TypeError, "x is None, but an array is expected"),
    ],
)
def test_wrong_x_is_refused_and_the_state_stays(x, error, message):
    stream = clstm.LSTM(3, 4, seed=0).stream(2)
    stream.step(np.ones((2, 3)))
    before = np.stack(stream.state)
    with pytest.raises(error, match=message):
        stream.step(x)
    assert_same_bytes(np.stack(stream.state), before)


@pytest.mark.parametrize(
    "layout",
    [
        np.asfortranarray,
        np.ndarray.tolist,
        lambda x: np.repeat(x, 2, axis=1)[:, ::2],
        lambda x: x[::-1].copy()[::-1],
        lambda x: x.astype(np.float64),
        lambda x: x.astype(">f4"),
        lambda x: frozen(x.copy()),
    ],
)
def test_any_layout_of_x(layout):
    lstm = clstm.LSTM(3, 4, seed=0)
    x = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
    assert_same_bytes(lstm.stream(2).step(layout(x)), lstm.stream(2).step(x))


def test_broadcast_x():
    lstm = clstm.LSTM(3, 4, seed=0)
    x = np.random.default_rng(0).standard_normal(3).astype(np.float32)
    assert_same_bytes(lstm.stream(2).step(np.broadcast_to(x, (2, 3))), lstm.stream(2).step(np.stack([x, x])))


def test_reset_goes_back_to_zeros():
    stream = clstm.LSTM(3, 4, 2, seed=0).stream(2)
    first = stream.step(np.ones((2, 3)))
    stream.step(np.ones((2, 3)))
    stream.reset()
    assert not np.any(stream.state)
    assert_same_bytes(stream.step(np.ones((2, 3))), first)


def test_the_state_is_a_copy_both_ways():
    stream = clstm.LSTM(3, 4, 2, seed=0).stream(2)
    h, c = np.ones((2, 2, 4), np.float32), np.full((2, 2, 4), 2, np.float32)
    stream.state = h, c
    h[...] = c[...] = 9
    stream.state[0][...] = 9
    assert np.all(stream.state[0] == 1) and np.all(stream.state[1] == 2)
    stream.state = [[[0.5] * 4] * 2] * 2, np.zeros((2, 2, 4), np.int8)
    assert np.all(stream.state[0] == 0.5) and np.all(stream.state[1] == 0)


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        (
            (np.zeros((1, 2, 4)), np.zeros((2, 2, 4))),
            ValueError,
            r"h has shape \(1, 2, 4\), but \(2, 2, 4\) is expected",
        ),
        ((np.zeros((2, 2, 4)), np.zeros((2, 4))), ValueError, r"c has shape \(2, 4\), but \(2, 2, 4\) is expected"),
        (
            (np.zeros((2, 2, 4)), np.zeros((2, 2, 4), complex)),
            TypeError,
            "c has dtype complex128, but real numbers are",
        ),
        ((np.zeros((2, 2, 4)),), TypeError, r"state is a tuple of length 1, but a pair \(h, c\) is expected"),
        (np.zeros((2, 2, 2, 4)), TypeError, r"state is a ndarray, but a pair \(h, c\) is expected"),
        (None, TypeError, r"state is a NoneType, but a pair \(h, c\) is expected"),
    ],
)
def test_wrong_states_are_refused_and_the_state_stays(state, error, message):
    stream = clstm.LSTM(3, 4, 2, seed=0).stream(2)
    stream.step(np.ones((2, 3)))
    before = np.stack(stream.state)
    with pytest.raises(error, match=message):
        stream.state = state
    assert_same_bytes(np.stack(stream.state), before)


def test_streams_of_one_network_are_independent():
    lstm = clstm.LSTM(3, 4, seed=0)
    x = np.random.default_rng(0).standard_normal((5, 2, 3)).astype(np.float32)
    expected, _ = lstm(x)
    streams = [lstm.stream(), lstm.stream()]
    for t in range(5):
        for row, stream in enumerate(streams):
            assert_same_bytes(stream.step(x[t, row]), expected[t, row])


def test_a_stream_outlives_its_network():
    lstm = clstm.LSTM(3, 4, seed=0)
    expected, _ = lstm(np.ones((2, 3)))
    stream = lstm.stream()
    del lstm
    gc.collect()
    assert_same_bytes(np.stack([stream.step(np.ones(3)), stream.step(np.ones(3))]), expected)


def test_a_step_with_out_allocates_nothing():
    stream = clstm.LSTM(8, 32, 2, seed=0).stream(4)
    x, out = np.ones((4, 8), np.float32), np.empty((4, 32), np.float32)
    stream.step(x, out=out)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        for _ in range(100):
            stream.step(x, out=out)
        assert tracemalloc.get_traced_memory()[1] - before < 512  # the loop's own integers
    finally:
        tracemalloc.stop()


def test_streams_of_no_rows():
    with pytest.raises(ValueError, match="batch_size is 0, but at least 1 is expected"):
        clstm.LSTM(3, 4).stream(0)
    with pytest.raises(TypeError, match="batch_size is 1.5, but an integer is expected"):
        clstm.LSTM(3, 4).stream(1.5)


def test_a_bidirectional_network_cannot_be_streamed():
    with pytest.raises(ValueError, match="bidirectional is True, but a stream has no future"):
        clstm.LSTM(3, 4, bidirectional=True).stream()


def test_batch_first_networks_stream_in_the_same_way():
    problem = Problem(3, 4, 2)
    x = problem.batch().x
    assert_same_bytes(problem.lstm(batch_first=True).stream(2).step(x[0]), problem.lstm().stream(2).step(x[0]))


def test_a_stream_has_no_dropout():
    problem = Problem(3, 4, 2)
    x = problem.batch().x
    assert_same_bytes(problem.lstm(dropout=0.9).stream(2).step(x[0]), problem.lstm().stream(2).step(x[0]))
