"""The C library by itself: `make install`, the symbols it exports, programs in C and C++, its binary interface."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import clstm

ROOT = Path(__file__).parents[1]

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the Makefile's library is for Linux"),
    pytest.mark.skipif(not all(map(shutil.which, ("make", "cc", "nm"))), reason="make, cc or nm is missing"),
]

PROGRAM = """
#include <clstm.h>
int main() {
    clstm_spec spec = {};
    spec.input_size = 3;
    spec.hidden_size = 5;
    spec.num_layers = 1;
    return clstm_check_spec(&spec) == CLSTM_OK && clstm_step(&spec, 0, 1, 0, 0, 0, 0, 0) == CLSTM_ERROR_NULL ? 0 : 1;
}
"""


def output(*command, **options):
    done = subprocess.run([str(word) for word in command], capture_output=True, **options)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@pytest.fixture(scope="session")
def prefix(tmp_path_factory):
    """Where the library is installed, made with an option that distributions add."""
    made = tmp_path_factory.mktemp("library")
    output("make", "-s", "-j2", "install", f"BUILD={made / 'build'}", f"PREFIX={made}", "CFLAGS=-flto", cwd=ROOT)
    return made


def public_functions():
    text = re.sub(r"/\*.*?\*/", "", (ROOT / "include" / "clstm.h").read_text(), flags=re.DOTALL)
    return set(re.findall(r"(clstm_\w+)\(", text))


@pytest.mark.parametrize("options", [["-D", "libclstm.so"], ["-g", "libclstm.a"]])
def test_the_library_exports_the_functions_of_the_header_and_nothing_else(prefix, options):
    lines = output("nm", "--defined-only", options[0], prefix / "lib" / options[1]).decode().splitlines()
    assert {line.split()[-1] for line in lines if len(line.split()) == 3} == public_functions()


def test_the_static_library_does_not_clash_with_names_of_the_program(prefix, tmp_path):
    source = tmp_path / "program.c"
    source.write_text(
        PROGRAM.replace("main()", "network_check_batch(void) { return 1; }\nint main(void)").replace("{}", "{0}")
    )
    library = prefix / "lib" / "libclstm.a"
    output("cc", f"-I{prefix}/include", source, library, "-pthread", "-lm", "-o", tmp_path / "program")
    output(tmp_path / "program")


@pytest.mark.parametrize("standard", ["c++11", "c++20"])
@pytest.mark.skipif(not shutil.which("c++"), reason="there is no C++ compiler")
def test_a_cpp_program_builds_without_warnings_and_runs(prefix, standard, tmp_path):
    source, program = tmp_path / "program.cpp", tmp_path / "program"
    source.write_text(PROGRAM)
    flags = [f"-std={standard}", "-Wall", "-Wextra", "-Wpedantic", "-Werror", f"-Wl,-rpath,{prefix}/lib"]
    output("c++", *flags, source, *pkg_config(prefix), "-o", program)
    output(program)


def pkg_config(prefix, *options):
    if not shutil.which("pkg-config"):
        return [f"-I{prefix}/include", f"-L{prefix}/lib", "-lclstm"]
    environment = os.environ | {"PKG_CONFIG_PATH": f"{prefix}/lib/pkgconfig"}
    return output("pkg-config", "--cflags", "--libs", *options, "clstm", env=environment).decode().split()


@pytest.mark.skipif(not shutil.which("pkg-config"), reason="pkg-config is not installed")
def test_pkg_config_names_the_installed_library(prefix):
    assert pkg_config(prefix) == [f"-I{prefix}/include", f"-L{prefix}/lib", "-lclstm"]
    assert pkg_config(prefix, "--static")[-2:] == ["-pthread", "-lm"]
    environment = os.environ | {"PKG_CONFIG_PATH": f"{prefix}/lib/pkgconfig"}
    assert output("pkg-config", "--modversion", "clstm", env=environment).decode().strip() == clstm.__version__


# ---- plugins ----


@pytest.mark.parametrize("library", ["-lclstm", "-l:libclstm.a"])
@pytest.mark.skipif(not shutil.which("pkg-config"), reason="pkg-config, which names the options, is not installed")
def test_a_plugin_is_loaded_and_closed_while_its_workers_sleep(prefix, library, tmp_path):
    sources = ROOT / "tests" / "c"
    words = [library if word == "-lclstm" else word for word in pkg_config(prefix, "--static")]
    words = ["-shared", "-fPIC", *words, f"-Wl,-rpath,{prefix}/lib"]
    output("cc", sources / "plugin.c", *words, "-o", tmp_path / "plugin")
    output("cc", "-D_GNU_SOURCE", sources / "plugin_host.c", "-ldl", "-o", tmp_path / "host")
    output(tmp_path / "host", tmp_path / "plugin")


# ---- the example ----


@pytest.fixture(scope="module")
def audio(prefix, tmp_path_factory):
    program = tmp_path_factory.mktemp("audio") / "audio"
    flags = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", f"-Wl,-rpath,{prefix}/lib"]
    output("cc", *flags, ROOT / "examples" / "audio.c", *pkg_config(prefix), "-o", program)
    return program


def test_the_audio_example_computes_what_python_does(audio, tmp_path):
    model = clstm.Sequential(clstm.LSTM(1, 40, seed=0), clstm.Linear(40, 1, seed=0))
    model.save(tmp_path / "model.safetensors")
    samples = np.sin(np.arange(1000, dtype=np.float32) / 7)
    found = np.frombuffer(output(audio, tmp_path / "model.safetensors", input=samples.tobytes()), np.float32)
    expected, _ = model(samples[:, None])
    assert found.shape == (1000,)
    np.testing.assert_allclose(found, expected[:, 0], rtol=0, atol=2e-6)  # its sum over H goes another way


def damaged_files():
    model = clstm.Sequential(clstm.LSTM(1, 3, seed=0), clstm.Linear(3, 1))
    good = {name: np.asarray(array) for name, array in model.state_dict().items()}
    yield "no file at all", None
    yield "empty", b""
    yield "a header longer than the file", b"\xff" * 8 + b"{}"
    yield "two inputs", clstm.Sequential(clstm.LSTM(2, 3), clstm.Linear(3, 1)).state_dict()
    yield "two outputs", clstm.Sequential(clstm.LSTM(1, 3), clstm.Linear(3, 2)).state_dict()
    yield "float64", {name: array.astype(np.float64) for name, array in good.items()}
    yield "no bias", {name: array for name, array in good.items() if "bias_ih" not in name}


@pytest.mark.parametrize(("what", "content"), damaged_files())
def test_the_audio_example_refuses_other_files(audio, what, content, tmp_path):
    path = tmp_path / "model.safetensors"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        clstm.write_safetensors(path, content)
    done = subprocess.run([audio, path], input="", capture_output=True, text=True)
    assert done.returncode == 1
    assert "holds no LSTM with one input and a linear layer with one output" in done.stderr


# ---- the binary interface ----


def test_the_binary_interface_is_the_recorded_one():
    """docs/embedding.md says what may change; then `make abi` records it anew."""
    found = output(sys.executable, ROOT / "tools" / "abi.py").decode().splitlines()
    assert found == (ROOT / "tests" / "abi.txt").read_text().splitlines()


def test_the_capsule_offers_every_function_of_the_header():
    text = (ROOT / "tests" / "abi.txt").read_text()
    offered = set(re.findall(r"\(\*(\w+)\)", text.partition("capsule")[2])) - {"borrow_pack"}
    assert {f"clstm_{name}" for name in offered} == public_functions()
    macros = re.findall(r"#define (clstm_\w+) clstm_capi_table->(\w+)", (ROOT / "include" / "clstm_capi.h").read_text())
    assert all(macro == f"clstm_{member}" for macro, member in macros)
    assert {macro for macro, _ in macros} == public_functions() | {"clstm_borrow_pack"}


def declared_for_cython():
    return Path(clstm.__file__).with_name("__init__.pxd").read_text()


def test_cython_declares_every_function_of_the_header():
    declared = set(re.findall(r"^    \w[^(\n]*?(clstm_\w+)\(", declared_for_cython(), re.MULTILINE))
    assert declared - {"clstm_borrow_pack"} == public_functions()


def test_cython_declares_every_constant_and_field_of_the_header():
    """Each word with a value or an offset in abi.txt is in the enum or struct of its name."""
    recorded = (ROOT / "tests" / "abi.txt").read_text()
    bodies = dict(re.findall(r"(?:enum|struct) (clstm_\w+):\n((?: {8}.*\n)+)", declared_for_cython()))
    for name, constant in re.findall(r"^enum (\w+) (\w+)", recorded, re.MULTILINE):
        assert constant in bodies[name].split()
    for name, fields in re.findall(r"^struct (\w+):.*\n((?: {4}.*\n)+)", recorded, re.MULTILINE):
        assert re.findall(r"(\w+)(?:\[5\])?\n", bodies[name]) == re.findall(r" (\w+):", fields)
