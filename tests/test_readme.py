"""The README: its code does what it says, and it says how to begin."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture(scope="module")
def text():
    return README.read_text(encoding="utf-8")


def test_the_code_runs_and_does_what_its_comments_say(text):
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    names = {}
    exec(code, names)
    after, _ = names["lstm"](names["x"])
    assert after.tobytes() != names["y"].tobytes()  # the training step changed the weights
    for row, (y, _) in enumerate(names["results"]):
        assert y.tobytes() == after[:, row].tobytes()
    assert b"".join(step.tobytes() for step in names["steps"]) == after[:, 0].tobytes()


def test_it_says_how_to_set_up_and_not_to_install_another_project(text):
    for command in ("pip install '.[cli]' && clstm demo", "pip install '.[test]' && pytest"):
        assert f"    {command}\n" in text
    assert "pip install " + "clstm" not in text
