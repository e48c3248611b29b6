"""Ctrl-C during a long call: heard at once, and everything is usable afterwards."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

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


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_handler_forks_and_the_call_ends_in_the_parent_only(lstm):
    clstm.set_num_threads(2)
    x = long_input(lstm, 400)
    expected, _ = lstm(x)
    children = []
    before = signal.signal(signal.SIGUSR1, lambda *_: children.append(os.fork()))
    timer = threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGUSR1))
    timer.start()
    try:
        y, _ = lstm(x)
    except RuntimeError as error:
        signal.alarm(60)
        os._exit(0 if "forked" in str(error) and np.array_equal(lstm(x)[0], expected) else 1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    if children == [0]:
        os._exit(2)
    timer.join()
    assert_same_bytes(y, expected)
    assert os.waitstatus_to_exitcode(os.waitpid(*children, 0)[1]) == 0


AFTER_THE_CLOCK_IS_SET_BACK = """
import signal, time, numpy as np, clstm
class Heard(Exception): pass
def handler(number, frame): raise Heard
clstm._core.set_isa("portable")
clstm.set_num_threads(1)
lstm = clstm.LSTM(128, 128, 2, init="pytorch", seed=0)
x = np.broadcast_to(np.ones((1, 1, 128), np.float32), (10_000, 4, 128))
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.2)
before = time.process_time()
try:
    lstm(x)
except Heard:
    print(time.process_time() - before < 1.2)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a preloaded library is Linux's way")
@pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler")
def test_a_signal_is_heard_while_the_clock_is_set_back(tmp_path):
    library = tmp_path / "clock_set_back.so"
    source = Path(__file__).parent / "c" / "clock_set_back.c"
    subprocess.run(["cc", "-shared", "-fPIC", source, "-o", library], check=True)
    command = [sys.executable, "-c", AFTER_THE_CLOCK_IS_SET_BACK]
    done = subprocess.run(command, env=os.environ | {"LD_PRELOAD": str(library)}, capture_output=True, text=True)
    assert done.stdout.strip() == "True", done.stdout + done.stderr
