"""Other packages build on the installed clstm: `cimport clstm`, the capsule, and get_include()."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from problems import assert_same_bytes

import clstm

PACKAGE = Path(__file__).parent / "embed_pkg"

pytest.importorskip("Cython", reason="Cython is not installed")
pytest.importorskip("setuptools", reason="setuptools is not installed")
pytestmark = pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler")


def absolute_pythonpath():
    """For processes that run in another directory."""
    return {name: os.path.abspath(text) for name, text in os.environ.items() if name == "PYTHONPATH"}


def run(command, source, **environment):
    environment = os.environ | absolute_pythonpath() | environment
    return subprocess.run([sys.executable, *command], cwd=source, env=environment, capture_output=True, text=True)


def build(source, **environment):
    """Build embed_pkg in place, in a copy, as its users would."""
    done = run(["setup.py", "-q", "build_ext", "--inplace"], source, **environment)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    source = shutil.copytree(PACKAGE, tmp_path_factory.mktemp("downstream") / "source")
    build(source)
    return source


@pytest.fixture
def modules(built, monkeypatch):
    monkeypatch.syspath_prepend(built)
    import embed_pkg.from_c
    import embed_pkg.from_cython

    return embed_pkg


def expected_rollout(lstm, x, steps):
    stream, y = lstm.stream(), []
    for _ in range(steps):
        x = stream.step(x)
        y.append(x)
    return np.array(y)


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python is not a free-threaded one")
@pytest.mark.parametrize("module", ["from_cython", "from_c"])
def test_a_free_threaded_python_stays_so(built, module):
    done = run(["-W", "error", "-c", f"import numpy, clstm, embed_pkg.{module}"], built)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("size", [1, 7, 33])
def test_a_loop_of_steps_in_c_gives_the_bytes_of_python(modules, size):
    lstm = clstm.LSTM(size, size, seed=size)
    x = np.linspace(-1, 1, size, dtype=np.float32)
    expected = expected_rollout(lstm, x, 20)
    assert_same_bytes(modules.from_cython.rollout(lstm, x, 20), expected)
    assert modules.from_c.rollout(lstm, x, 20) == expected.tobytes()


def test_the_pack_is_of_the_weights_at_the_call(modules):
    lstm = clstm.LSTM(5, 5, seed=0)
    x = np.ones(5, np.float32)
    before = modules.from_c.rollout(lstm, x, 3)
    lstm.weight_hh_l0[...] *= 2
    after = modules.from_c.rollout(lstm, x, 3)
    assert after != before
    assert after == expected_rollout(lstm, x, 3).tobytes()


def test_errors_of_the_interface_reach_the_caller(modules):
    x = np.ones(3, np.float32)
    for rollout in modules.from_cython.rollout, modules.from_c.rollout:
        with pytest.raises(TypeError, match="lstm is a Linear, but a clstm.LSTM is expected"):
            rollout(clstm.Linear(3, 3), x, 1)
        with pytest.raises(ValueError, match="hidden_size equal to input_size is expected"):
            rollout(clstm.LSTM(3, 4), x, 1)
        with pytest.raises(ValueError, match="clstm_step runs neither bidirectional networks nor variants"):
            rollout(clstm.LSTM(3, 3, bidirectional=True), x, 1)


def test_versions_are_those_of_the_package(modules):
    assert modules.from_cython.version() == (1, 0, clstm.__version__)


@pytest.mark.parametrize(("major", "minor"), [(0, 0), (2, 0), (1, 7)])
def test_another_version_of_the_interface_is_refused(major, minor, tmp_path):
    source = shutil.copytree(PACKAGE, tmp_path / "source")
    (source / "embed_pkg" / "from_cython.pyx").write_text("")
    headers = shutil.copytree(clstm.get_include(), tmp_path / "include")
    text = (headers / "clstm.h").read_text()
    text = text.replace("#define CLSTM_ABI_MAJOR 1\n", f"#define CLSTM_ABI_MAJOR {major}\n")
    text = text.replace("#define CLSTM_ABI_MINOR 0\n", f"#define CLSTM_ABI_MINOR {minor}\n")
    (headers / "clstm.h").write_text(text)
    build(source, CFLAGS=f"-I{headers}")
    done = run(["-c", "import embed_pkg.from_c"], source)
    message = (
        f"ImportError: this module was compiled for version {major}.{minor} of clstm's C interface, "
        f"but the installed clstm {clstm.__version__} offers version 1.0"
    )
    assert message in done.stderr


def test_the_headers_are_installed():
    assert {path.name for path in Path(clstm.get_include()).iterdir()} == {"clstm.h", "clstm_capi.h"}


EDITABLE_OUTPUTS = """
import runpy, setuptools
options = {"packages": ["clstm"], "package_dir": {"": "src"}}
setuptools.setup = lambda **others: options.update(others)
runpy.run_path("setup.py")
build = setuptools.Distribution(options).get_command_obj("build_ext")
build.editable_mode = True
build.ensure_finalized()
print(*build.get_outputs(), sep="\\n")
"""


def test_a_strict_editable_install_links_the_headers():
    """Such an install is a tree of links to what the build names."""
    done = run(["-c", EDITABLE_OUTPUTS], PACKAGE.parents[1])
    assert done.returncode == 0, done.stderr
    linked = {Path(line).name for line in done.stdout.splitlines() if Path(line).parent.name == "include"}
    assert linked == {"clstm.h", "clstm_capi.h"}
