"""What more threads bring: clstm's own on one call, and Python threads that call one model at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from timeit import Timer
from typing import Any

import numpy as np
from roof import processors
from timing import interleaved

import clstm

ROUNDS = 5


def measure(seconds: float) -> list[dict[str, Any]]:
    """Speed relative to one thread, for as many threads as there are processors and for twice as many."""
    counts = sorted({1, processors(), 2 * processors()})
    return [
        _own_threads("forward, one call", counts, seconds, T=20, B=64, size=256),
        _own_threads("training step, one call", counts, seconds, T=20, B=64, size=256, training=True),
        _own_threads("forward, one call", counts, seconds, T=25, B=1, size=512),
        _callers("forward, calls of Python threads", counts, seconds, T=100, B=1, size=128),
    ]


def _own_threads(
    work: str, counts: list[int], seconds: float, *, T: int, B: int, size: int, training: bool = False
) -> dict[str, Any]:
    lstm, x = _model(T, B, size)
    dy = np.ones_like(x)

    def call(threads: int) -> Callable[[], None]:
        def run() -> None:
            clstm.set_num_threads(threads)
            if training:
                lstm.backward(lstm.forward(x)[2], dy)
            else:
                lstm(x)

        return run

    times = interleaved({str(n): Timer(call(n)) for n in counts}, seconds)
    speed = {name: times["1"].median / time.median for name, time in times.items()}
    return {"work": work, "shape": [T, B, size, size], "speed": speed}


def _callers(work: str, counts: list[int], seconds: float, *, T: int, B: int, size: int) -> dict[str, Any]:
    lstm, x = _model(T, B, size)
    clstm.set_num_threads(1)
    rates: dict[str, list[float]] = {str(n): [] for n in counts}
    for _ in range(ROUNDS):
        for n in counts:
            rates[str(n)].append(_throughput(lambda: lstm(x), n, seconds / ROUNDS / len(counts)))
    speed = {name: float(np.median(values) / np.median(rates["1"])) for name, values in rates.items()}
    return {"work": work, "shape": [T, B, size, size], "speed": speed}


def _model(T: int, B: int, size: int) -> tuple[clstm.LSTM, np.ndarray]:
    x = np.random.default_rng(0).standard_normal((T, B, size), np.float32)
    return clstm.LSTM(size, size, seed=0), x


def _throughput(call: Callable[[], Any], callers: int, seconds: float) -> float:
    """Calls per second of so many Python threads together."""
    finished: list[int] = []
    start = threading.Barrier(callers + 1)

    def work() -> None:
        start.wait()
        end, n = time.perf_counter() + seconds, 0
        while time.perf_counter() < end:
            call()
            n += 1
        finished.append(n)

    threads = [threading.Thread(target=work) for _ in range(callers)]
    for thread in threads:
        thread.start()
    start.wait()
    begin = time.perf_counter()
    for thread in threads:
        thread.join()
    return sum(finished) / (time.perf_counter() - begin)
