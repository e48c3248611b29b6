"""Processes: fork at any moment, pre-forked servers, objects by the thousand, sub-interpreters."""

import gc
import importlib.util
import os
import signal
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
from problems import SPLIT_BY_ROWS, SPLIT_BY_UNITS, Problem, assert_same_bytes, outputs

import clstm

can_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
has_proc = pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="this system has no /proc")


def fork(work):
    """Run work() in a forked process, which ends with status 0 if it returns true, and in time if it waits for ever."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork in a process with threads: just what is tested
        child = os.fork()
    if child:
        return child
    status = 1
    signal.alarm(60)
    try:
        status = 0 if work() else 1
    finally:
        os._exit(status)


def ends_well(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@can_fork
@pytest.mark.parametrize("problem", [SPLIT_BY_ROWS, SPLIT_BY_UNITS], ids=["rows", "units"])
def test_forks_in_the_middle_of_other_threads_calls(problem):
    clstm.set_num_threads(3)
    lstm, batch = problem.lstm(), problem.batch()
    expected = outputs(lstm, batch)
    done = threading.Event()

    def call():
        while not done.is_set():
            lstm(batch.x)

    def check():
        assert_same_bytes(outputs(lstm, batch), expected)
        return threading.active_count() == 1

    callers = [threading.Thread(target=call) for _ in range(3)]
    for caller in callers:
        caller.start()
    try:
        assert [ends_well(fork(check)) for _ in range(20)] == [True] * 20
    finally:
        done.set()
        for caller in callers:
            caller.join()
    assert_same_bytes(outputs(lstm, batch), expected)


@can_fork
def test_a_pre_forked_server_answers_from_all_workers():
    """The master loads a model and answers once; workers fork from it, work side by side, die and are replaced."""
    clstm.set_num_threads(2)
    problem = Problem(9, 65, 2, T=40, B=16)  # threads share it
    lstm, batch = problem.lstm(), problem.batch()
    expected = outputs(lstm, batch)

    def serve():
        for _ in range(10):
            assert_same_bytes(outputs(lstm, batch), expected)
        return ends_well(fork(lambda: lstm(batch.x)[0].shape[0] == problem.T))  # a worker's own child

    for _ in range(3):
        workers = [fork(serve) for _ in range(4)]
        assert [ends_well(worker) for worker in workers] == [True] * 4


def status(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name))


@has_proc
def test_a_thousand_objects_leave_no_memory_threads_or_files(tmp_path):
    clstm.set_num_threads(2)
    x = np.ones((20, 33, 9), np.float32)  # threads share it

    def cycle(count):
        for _ in range(count):
            lstm = clstm.LSTM(9, 65, 2, init="pytorch", seed=0)
            y, _, tape = lstm.forward(x)
            lstm.backward(tape, y)
            lstm.stream().step(x[0, 0])
            lstm.save(tmp_path / "model.safetensors")
            clstm.LSTM.load(tmp_path / "model.safetensors")
        gc.collect()

    cycle(100)
    before = status("VmRSS"), status("Threads"), len(os.listdir("/proc/self/fd"))
    cycle(1000)
    assert status("VmRSS") - before[0] < 3000  # kilobytes: 3 a cycle, less than any of its objects
    assert (status("Threads"), len(os.listdir("/proc/self/fd"))) == before[1:]


# ---- sub-interpreters ----

SUBINTERPRETER = """
try:
    import {module} as interpreters
except ImportError:
    raise SystemExit("skip")
{before}
other = interpreters.create()
interpreters.run_string(other, '''
import warnings
warnings.simplefilter("ignore")
try:
    import clstm
    print("works", clstm.LSTM(2, 3).stream().step([1.0, 2.0]).shape)
except ImportError as error:
    print("refused:", error)
''')
interpreters.destroy(other)
{after}
"""


def in_subinterpreter(before, after):
    module = "_interpreters" if importlib.util.find_spec("_interpreters") else "_xxsubinterpreters"
    code = SUBINTERPRETER.format(module=module, before=before, after=after)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.stderr.strip() == "skip":
        pytest.skip("this Python has no module of sub-interpreters")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_second_interpreter_is_refused_clearly_and_the_first_goes_on():
    after = 'print("works", clstm.LSTM(2, 3).stream().step([1.0, 2.0]).shape)'
    refused, works = in_subinterpreter("import clstm", after)
    assert refused.startswith("refused:") and "interpreter" in refused
    assert works == "works (3,)"
