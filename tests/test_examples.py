"""The examples run, and what they print is so."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name, *arguments):
    """What an example prints."""
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def test_forecast_learns_the_signal():
    output = run("forecast.py", "--steps", 150, "--hidden-size", 16)
    assert re.search(r"^step +100 ", output, re.MULTILINE)
    error, size = map(float, re.search(r"steps: (\S+) \(the signal's size: (\S+)\)", output).groups())
    assert error < size / 2


def test_serve_answers_the_same_from_any_number_of_workers():
    output = run("serve.py", "--requests", 20, "--workers", 3)
    assert re.findall(r"^(\d) workers?: [\d,]+ sequences/s$", output, re.MULTILINE) == ["1", "3"]
    assert output.endswith("to the last bit: True\n")


def test_stream_gives_what_the_whole_sequence_gives():
    output = run("stream.py", "--samples", 101)
    assert re.match(r"\d+\.\d+ microseconds a sample\n", output)
    assert output.endswith("to the last bit: True\n")


def test_a_pytorch_model_counts_and_is_served_without_pytorch():
    pytest.importorskip("torch")
    output = run("pytorch_model.py")
    counts = re.search(r"^ones so far: (.*)$", output, re.MULTILINE)[1].split()
    assert [round(float(count)) for count in counts] == [0, 1, 2, 2, 3, 3, 3, 4, 5, 6]
    assert float(re.search(r"difference from PyTorch: (\S+)", output)[1]) < 1e-5


def test_every_example_is_tested():
    tested = set(re.findall(r'run\("(\w+\.py)"', Path(__file__).read_text(encoding="utf-8")))
    assert {path.name for path in EXAMPLES.glob("*.py")} == tested
