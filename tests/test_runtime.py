"""The process: version, instruction sets, environment. Threads: tests/test_threads.py."""

import importlib.metadata
import os
import subprocess
import sys

import pytest

import clstm


def test_the_library_and_the_package_have_one_version():
    assert clstm.__version__ == importlib.metadata.version("clstm")


def told(code, **environment):
    command = [sys.executable, "-c", f"import clstm; print({code})"]
    return subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_the_environment_sets_threads_and_instruction_set():
    assert told("clstm.get_num_threads()", CLSTM_NUM_THREADS="5") == "5"
    assert told("clstm.cpu_info()['isa']", CLSTM_ISA="portable") == "portable"
    assert told("clstm.cpu_info()['isa']", CLSTM_ISA="no such thing") == clstm.cpu_info()["available"][0]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        *(
            ("CLSTM_NUM_THREADS", value, "a number from 1 to 1024")
            for value in ("four", "0", "1025", "2.5", "3 ", "-1")
        ),
        ("CLSTM_ISA", "sse", f"one of {', '.join(clstm.cpu_info()['available'])}"),
    ],
)
def test_a_value_in_the_environment_that_is_ignored_is_named(name, value, expected):
    assert (
        imported(name, value)
        .splitlines()[0]
        .endswith(f"RuntimeWarning: {name} is {value!r} in the environment, but {expected} is expected: it is ignored")
    )


@pytest.mark.parametrize("value", ["", "1", " 2", "+3", "007", "1024"])
def test_a_number_of_threads_that_counts_gives_no_warning(value):
    assert imported("CLSTM_NUM_THREADS", value) == ""
    if value:
        assert told("clstm.get_num_threads()", CLSTM_NUM_THREADS=value) == str(int(value))


def imported(name, value):
    """What importing the package writes to standard error."""
    command = [sys.executable, "-W", "default", "-c", "import clstm"]
    return subprocess.run(
        command, env=os.environ | {name: value}, capture_output=True, text=True, check=True
    ).stderr.strip()


def test_importing_brings_in_little_beyond_numpy():
    code = """
import sys, numpy
sys.modules["threadpoolctl"] = None  # it brings dataclasses and inspect, where it is installed
before = set(sys.modules)
import clstm
heavy = {"torch", "matplotlib", "tqdm", "importlib.metadata", "inspect", "email", "socket", "hashlib", "numpy.random"}
heavy |= {"clstm.interop", "onnx", "h5py", "json", "safetensors"}
print(sorted(heavy & (set(sys.modules) - before)))
"""
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_every_public_name_is_there():
    assert set(clstm.__all__) <= set(dir(clstm))
    assert all(getattr(clstm, name).__module__.startswith("clstm.") for name in clstm.__all__)
    with pytest.raises(AttributeError, match="module 'clstm' has no attribute 'from_tensorflow'"):
        _ = clstm.from_tensorflow
