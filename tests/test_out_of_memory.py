"""Every allocation fails in turn: an error, nothing is leaked or half-changed, and the next try gives the same bytes.

Run as a program, this file is the process whose memory fails.
"""

import copy
import ctypes
import gc
import itertools
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from problems import Problem, assert_same_bytes, called, outputs

import clstm

# Where numpy and CPython lose a MemoryError on its way, CPython says SystemError; of a lock, RuntimeError. Pickling and
# safetensors have words of their own.
ERRORS = {"MemoryError", "SystemError", "RuntimeError"}
MORE_ERRORS = {"pickle": {"PicklingError"}, "save and load": {"PanicException"}}


def deeds(directory):
    """What a process may do, by name. Each returns arrays, always the same."""
    problem = Problem(7, 33, 2, T=9, B=5, with_lengths=True)
    lstm, batch = problem.lstm(), problem.batch()
    variant = problem._replace(variant={"peepholes": True, "learn_initial_state": True}).lstm()
    weights, path = lstm.state_dict(), os.path.join(directory, "model.safetensors")
    x = np.ones((300, 7), np.float32)

    def assign():
        lstm.load_state_dict(weights)
        lstm.weight_hh_l0 = weights["weight_hh_l0"]
        return lstm.state_dict()

    def stream():
        steps = lstm.stream(300)
        return {"y": steps.step(x), "next": steps.step(x)}

    def save_and_load():
        lstm.save(path)
        return called(clstm.LSTM.load(path), batch)

    return {
        "make": lambda: problem.lstm().state_dict(),
        "call": lambda: called(lstm, batch),
        "train": lambda: outputs(lstm, batch),
        "train a variant": lambda: outputs(variant, batch),
        "copy": lambda: called(copy.deepcopy(lstm), batch),
        "pickle": lambda: called(pickle.loads(pickle.dumps(lstm)), batch),
        "assign": assign,
        "stream": stream,
        "save and load": save_and_load,
    }


def survive(deed, attempts):
    """Do a deed once in each attempt at making it fail, and once more in peace; return how often which error came."""
    expected, errors = deed(), Counter()
    for attempt in attempts:
        found = None
        try:
            with attempt:
                found = deed()
        except BaseException as error:
            errors[type(error).__name__] += 1
        if found is not None:
            assert_same_bytes(found, expected)
        found = None
        assert_same_bytes(deed(), expected)
    return errors


class LargeAllocations:
    """Attempts in which the first, the second, ... of the C library's large allocations fails, while there are any."""

    def __init__(self):
        self.library = ctypes.CDLL(None)
        self.happened = True

    def __iter__(self):
        for self.n in itertools.count(1):
            if not self.happened:
                return
            yield self

    def __enter__(self):
        self.library.fail_allocation(ctypes.c_long(self.n))

    def __exit__(self, *_):
        self.happened = self.library.fail_allocation(ctypes.c_long(0))


class PythonAllocations:
    """Attempts in which the first, the second, ... of Python's allocations fails, until a hundred do no harm."""

    def __init__(self):
        import _testcapi

        self.module = _testcapi
        self.harmless = 0

    def __iter__(self):
        for self.n in itertools.count(1):
            if self.harmless == 100:
                return
            yield self

    def __enter__(self):
        self.module.set_nomemory(self.n, self.n + 1)

    def __exit__(self, error, *_):
        self.module.remove_mem_hooks()
        self.harmless = self.harmless + 1 if error is None else 0


def main(kind):
    """Print a line for each deed: large allocations that were not freed, its name, and the errors that came."""
    attempts = {"large": LargeAllocations, "python": PythonAllocations}[kind]
    with tempfile.TemporaryDirectory() as directory:
        for name, deed in deeds(directory).items():
            if (kind, name) == ("large", "save and load"):
                continue  # safetensors is written in Rust, which ends the process where its memory fails
            if kind == "python":
                print(0, name, *survive(deed, attempts()), sep=",")
                continue
            survive(deed, attempts())  # caches fill
            gc.collect()
            before = ctypes.CDLL(None).live_allocations()
            errors = survive(deed, attempts())
            gc.collect()
            print(ctypes.CDLL(None).live_allocations() - before, name, *errors, sep=",")


if __name__ == "__main__":
    main(sys.argv[1])


def check(kind, **environment):
    command = [sys.executable, "-X", "faulthandler", __file__, kind]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    for line in done.stdout.splitlines():
        leaked, name, *errors = line.split(",")
        assert leaked == "0", line
        assert "MemoryError" in errors and set(errors) <= ERRORS | MORE_ERRORS.get(name, set()), line
    return len(done.stdout.splitlines())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a preloaded library is Linux's way")
@pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler")
def test_each_large_allocation_may_fail(tmp_path):
    library = tmp_path / "failing_malloc.so"
    source = Path(__file__).parent / "c" / "failing_malloc.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", source, "-o", library], check=True)
    assert check("large", LD_PRELOAD=str(library)) == 8


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="CPython itself crashes where a generator has no memory")
def test_each_of_pythons_allocations_may_fail():
    pytest.importorskip("_testcapi", reason="this Python is installed without its tests' module")
    assert check("python") == 9
