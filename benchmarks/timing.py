"""Timing: several ways to do the same thing, in turns, so that whatever the machine does meanwhile hits all alike."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from timeit import Timer

import numpy as np

SAMPLE = 20e-6  # seconds: a shorter call is repeated until a sample takes this long
TURN = 2e-3  # seconds of a turn: a shorter call is repeated, so that it finds its data in the caches
MIN_TURNS = 5


@dataclass(frozen=True)
class Times:
    """Seconds a call: median, 10th and 90th percentile, and minimum."""

    median: float
    p10: float
    p90: float
    minimum: float


def interleaved(timers: Mapping[str, Timer], seconds: float, pause: float = 0.0) -> dict[str, Times]:
    """Time all calls in turns.

    Parameters
    ----------
    timers : mapping of str to Timer
    seconds : float
        For all together, at least; each has `MIN_TURNS` turns.
    pause : float, default 0.0
        Seconds of sleep before each turn, in which another library's threads stop to spin.
    """
    repeats = {name: _repeats(timer) for name, timer in timers.items()}
    samples: dict[str, list[float]] = {name: [] for name in timers}
    end, turns = time.perf_counter() + seconds, 0
    while turns < MIN_TURNS or time.perf_counter() < end:
        turns += 1
        for name, timer in timers.items():
            time.sleep(pause)
            samples[name] += _turn(timer, repeats[name])
    return {name: _times(values) for name, values in samples.items()}


def _repeats(timer: Timer) -> int:
    """Calls in a sample; the first call, which may prepare things, does not count."""
    timer.timeit(1)
    return max(1, round(SAMPLE / timer.timeit(1)))


def _turn(timer: Timer, repeats: int) -> list[float]:
    """Samples of one turn. Where there is more than one, the first has only warmed the caches up."""
    samples: list[float] = []
    end = time.perf_counter() + TURN
    while not samples or time.perf_counter() < end:
        samples.append(timer.timeit(repeats) / repeats)
    return samples[1:] or samples


def _times(samples: list[float]) -> Times:
    p10, median, p90 = np.percentile(samples, [10, 50, 90])
    return Times(float(median), float(p10), float(p90), min(samples))
