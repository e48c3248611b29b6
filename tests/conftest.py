"""Settings of all tests. Results do not depend on threads and instruction set, so every test may change both."""

import os

import numpy as np
import pytest
from hypothesis import settings

import clstm
from clstm import _core

# A run is repeatable; HYPOTHESIS_PROFILE=explore looks for new examples.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


@pytest.fixture(autouse=True)
def restore_runtime():
    """Put the number of threads and the instruction set back after each test."""
    threads, isa = clstm.get_num_threads(), clstm.cpu_info()["isa"]
    yield
    if clstm.get_num_threads() != threads:
        clstm.set_num_threads(threads)
    if clstm.cpu_info()["isa"] != isa:
        _core.set_isa(isa)


@pytest.fixture
def rng():
    """A random generator with a fixed seed."""
    return np.random.default_rng(20260101)
