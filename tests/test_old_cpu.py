"""One build runs on any x86-64: an emulated processor without AVX, and one without AVX-512."""

import os
import platform
import shutil
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="this is not x86-64"),
    pytest.mark.skipif(not shutil.which("qemu-x86_64"), reason="qemu-x86_64 is not installed"),
]

CODE = """
import hashlib, numpy as np, clstm
lstm = clstm.LSTM(5, 33, 2, bidirectional=True, init="pytorch", seed=0)  # not "default", which asks the BLAS
y, _, tape = lstm.forward(np.random.default_rng(0).random((7, 2, 5), np.float32))
dx, _, grads = lstm.backward(tape, y)
digest = hashlib.sha256(b"".join(a.tobytes() for a in (y, dx, *grads.values()))).hexdigest()
print(clstm.cpu_info()["isa"], digest)
"""


def run(*command, **environment):
    command = [*command, sys.executable, "-c", CODE]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "CLSTM_NUM_THREADS": "1"} | environment
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.fixture(scope="module")
def expected():
    _, digest = run(CLSTM_ISA="portable")
    return digest


@pytest.mark.parametrize(("processor", "isa"), [("Nehalem", "portable"), ("Haswell", "avx2")])
def test_an_emulated_processor_gets_its_kernels_and_the_same_bytes(processor, isa, expected):
    # numpy's BLAS, asked by itself, may take AVX for granted on an emulated processor
    assert run("qemu-x86_64", "-cpu", processor, OPENBLAS_CORETYPE=processor) == [isa, expected]
