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
PAGES = [page for page in (README, *sorted(README.parent.glob("docs/*.md"))) if page.exists()]
PAGES_NEED = {"pytorch.md": "torch", "inspection.md": "matplotlib", "onnx.md": "onnx"}
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


def blocks(page):
    """The Python code that a page shows."""
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.skipif(not PAGES, reason="the README is not beside the tests")
@pytest.mark.parametrize("page", filter(blocks, PAGES), ids=lambda page: page.name)
def test_examples_in_the_pages(page, tmp_path, monkeypatch):
    """All Python blocks of a page, one after the other, in an empty directory."""
    if page.name in PAGES_NEED:
        pytest.importorskip(PAGES_NEED[page.name])
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    for block in blocks(page):
        exec(compile(block, str(page), "exec"), names)


@pytest.mark.skipif(not PAGES, reason="the README is not beside the tests")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_in_the_pages_lead_to_files(page):
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


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
