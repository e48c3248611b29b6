"""What a call costs: one step of one sequence from Python, and the import."""

from __future__ import annotations

import os
import subprocess
import sys
from timeit import Timer
from typing import Any

import numpy as np
from timing import interleaved

import clstm

HIDDEN_SIZES = (1, 32, 128)
STATEMENTS = {
    "stream.step(x)": "step(x)",
    "stream.step(x, out=out)": "step(x, out=out)",
    "lstm(x)": "lstm(sequence)",
}


def measure(seconds: float) -> list[dict[str, Any]]:
    """Median seconds of each statement, with input_size = hidden_size, float32, in about `seconds` each."""
    clstm.set_num_threads(1)
    rows = []
    for size in HIDDEN_SIZES:
        lstm = clstm.LSTM(size, size, seed=0)
        x = np.random.default_rng(0).standard_normal(size, np.float32)
        names = {"lstm": lstm, "step": lstm.stream().step, "x": x, "out": np.empty_like(x), "sequence": x[None, None]}
        times = interleaved({name: Timer(code, globals=names) for name, code in STATEMENTS.items()}, seconds)
        rows.append({"hidden_size": size, **{name: times[name].median for name in STATEMENTS}})
    return rows


def import_seconds() -> float:
    """Seconds that `import clstm` takes after `import numpy`, from bytecode: the least of five new processes."""
    code = "import numpy, time; t = time.perf_counter(); import clstm; print(time.perf_counter() - t)"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return min(float(subprocess.check_output([sys.executable, "-c", code], env=environment)) for _ in range(5))
