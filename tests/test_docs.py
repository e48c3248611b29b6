"""What the documentation shows runs as shown."""

import doctest
import importlib
import inspect
import pkgutil
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import clstm

MODULES = ["clstm"] + [module.name for module in pkgutil.walk_packages(clstm.__path__, "clstm.")]
PUBLIC = [name for name in MODULES if not name.rpartition(".")[2].startswith("_")]
EXAMPLES_NEED = {"clstm.torch": "torch", "clstm.interop.onnx_model": "onnx"}
README = Path(__file__).parent.parent / "README.md"
HEADER = Path(clstm.__file__).parent / "include" / "clstm.h"


@pytest.mark.parametrize("name", PUBLIC)
def test_examples_in_docstrings(name):
    if name in EXAMPLES_NEED:
        pytest.importorskip(EXAMPLES_NEED[name])
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


@pytest.mark.parametrize("name", sorted(clstm.__all__))
def test_every_public_name_has_a_docstring_with_an_example(name):
    documented = getattr(clstm, name)
    text = inspect.getdoc(documented) or ""
    assert text, f"{name} has no docstring"
    assert ">>>" in text or "Examples\n--------\nSee" in text or name in ("constant", "get_num_threads"), name
    if inspect.isclass(documented):
        for method, function in inspect.getmembers(documented, callable):
            if not method.startswith("_") or method == "__call__":
                assert inspect.getdoc(function), f"{name}.{method} has no docstring"


def test_all_names_exist_and_the_version_is_one():
    for name in clstm.__all__:
        assert hasattr(clstm, name)
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", clstm.__version__)


@pytest.mark.skipif(not README.exists(), reason="the README is not beside the tests")
@pytest.mark.parametrize(
    "page", ["README.md", "docs/pytorch.md", "docs/ragged.md", "docs/long-sequences.md", "docs/inspection.md"]
)
def test_examples_in_the_pages(page, tmp_path, monkeypatch):
    """All Python blocks of a page, one after the other, in an empty directory."""
    if page == "docs/pytorch.md":
        pytest.importorskip("torch")
    if page == "docs/inspection.md":
        pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    path = README.parent / page
    blocks = re.findall(r"^```python\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)
    assert blocks
    names = {"__name__": "page"}
    for block in blocks:
        exec(compile(block, str(path), "exec"), names)


@pytest.mark.skipif(not README.exists(), reason="the README is not beside the tests")
def test_the_readme_never_sends_to_another_project():
    """The name on the public index is another project's."""
    assert not re.search(r"pip install clstm\b", README.read_text())


@pytest.mark.parametrize(("compiler", "language"), [("cc", "c11"), ("c++", "c++11")])
def test_the_installed_header_compiles_by_itself(compiler, language, tmp_path):
    if not shutil.which(compiler):
        pytest.skip(f"{compiler} is not installed")
    source = tmp_path / ("program.c" if language == "c11" else "program.cpp")
    source.write_text('#include "clstm.h"\nint main(void) { return sizeof(clstm_spec) == 0; }\n')
    flags = [f"-std={language}", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only", f"-I{HEADER.parent}"]
    subprocess.run([compiler, *flags, str(source)], check=True)
