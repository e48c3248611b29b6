"""Ctrl-C during a long call: heard at once, and everything is usable afterwards."""

import os
import signal
import threading
import time

import numpy as np
import pytest
from problems import assert_same_bytes

import clstm

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals are sent as POSIX does")


class Heard(Exception):
    """What the handler of the tests raises; Ctrl-C raises KeyboardInterrupt likewise."""


@pytest.fixture
def interrupted():
    """Runs a call, sends this process a signal during it, and returns the seconds of work between signal and error."""

    def send():
        sent.append(time.process_time())
        os.kill(os.getpid(), signal.SIGUSR1)

    def handler(number, frame):
        raise Heard

    def run(call):
        sent.clear()
        timer = threading.Timer(0.2, send)
        timer.start()
        try:
            with pytest.raises(Heard):
                call()
            return time.process_time() - sent[0]
        finally:
            timer.join()

    sent = []
    before = signal.signal(signal.SIGUSR1, handler)
    yield run
    signal.signal(signal.SIGUSR1, before)


@pytest.fixture(params=[False, True], ids=["one direction", "bidirectional"])
def lstm(request):
    """Slow: the long calls of these tests would take half a minute."""
    clstm._core.set_isa("portable")
    return clstm.LSTM(128, 128, 2, bidirectional=request.param, init="pytorch", seed=0)


def long_input(lstm, steps, rows=4):
    """One long sequence, many times over: a broadcast array takes the memory of one step."""
    return np.broadcast_to(np.ones((1, 1, lstm.input_size), np.float32), (steps, rows, lstm.input_size))


@pytest.mark.parametrize(("threads", "rows"), [(1, 4), (2, 4), (2, 1)])  # for one row, they share a step's units
def test_inference_ends_within_a_second(lstm, interrupted, threads, rows):
    clstm.set_num_threads(threads)
    small = np.ones((5, 3, 128), np.float32)
    expected, _ = lstm(small)
    assert interrupted(lambda: lstm(long_input(lstm, 40_000 // rows, rows))) < threads
    assert_same_bytes(lstm(small)[0], expected)


def test_training_ends_within_a_second_and_the_tape_is_still_good(lstm, interrupted):
    clstm.set_num_threads(1)
    small = np.ones((5, 3, 128), np.float32)
    y, _, tape = lstm.forward(small)
    expected = lstm.backward(tape, y)[2]
    assert interrupted(lambda: lstm.forward(long_input(lstm, 10_000))) < 1
    assert_same_bytes(lstm.backward(tape, y)[2], expected)


def test_backward_ends_within_a_second_and_can_be_called_again(lstm, interrupted):
    y, _, tape = lstm.forward(np.ones((5, 3, 128), np.float32))
    expected = lstm.backward(tape, y)[2]
    clstm.set_num_threads(1)
    _, _, long_tape = lstm.forward(long_input(lstm, 800))
    assert interrupted(lambda: lstm.backward(long_tape)) < 1
    assert_same_bytes(lstm.backward(tape, y)[2], expected)


def test_a_handler_that_raises_nothing_changes_nothing(lstm):
    x = long_input(lstm, 100)
    expected, _ = lstm(x)
    calls = []
    before = signal.signal(signal.SIGUSR1, lambda *_: calls.append(1))
    timer = threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGUSR1))
    timer.start()
    try:
        assert_same_bytes(lstm(x)[0], expected)
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)
    assert calls == [1]
