"""Whether values change the speed: zeros, denormal numbers, and numbers that saturate every gate."""

from __future__ import annotations

from functools import partial
from timeit import Timer
from typing import Any

import numpy as np
from timing import interleaved

import clstm

T, B, SIZE = 50, 32, 128
SCALES = {"normal": 1.0, "zeros": 0.0, "denormal": 1e-40, "saturating": 1e4}


def measure(seconds: float) -> list[dict[str, Any]]:
    """Time relative to normal values, of inputs and of weights, forward and training, in `seconds` each."""
    clstm.set_num_threads(1)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((T, B, SIZE), np.float32)
    dy = np.ones_like(x)
    rows = []
    for what in ("inputs", "weights"):
        cases = {name: _case(what, np.float32(scale), x) for name, scale in SCALES.items()}
        forward = {name: Timer(partial(lstm, x)) for name, (lstm, x) in cases.items()}
        training = {name: Timer(partial(_train, lstm, x, dy)) for name, (lstm, x) in cases.items()}
        for work, timers in (("forward", forward), ("training", training)):
            times = interleaved(timers, seconds)
            relative = {name: time.median / times["normal"].median for name, time in times.items()}
            rows.append({"work": f"{work}, {what}", "shape": [T, B, SIZE, SIZE], "time": relative})
    return rows


def _train(lstm: clstm.LSTM, x: np.ndarray, dy: np.ndarray) -> None:
    lstm.backward(lstm.forward(x)[2], dy)


def _case(what: str, scale: np.float32, x: np.ndarray) -> tuple[clstm.LSTM, np.ndarray]:
    lstm = clstm.LSTM(SIZE, SIZE, seed=0)
    if what == "inputs":
        return lstm, x * scale
    lstm.load_state_dict({name: array * scale for name, array in lstm.state_dict().items()})
    return lstm, x
