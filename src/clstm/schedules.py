"""Learning-rate schedules: functions from the number of steps done to the `lr` of an optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[int], float]


def constant(lr: float) -> Schedule:
    """Return the schedule that is always `lr`.

    Examples
    --------
    >>> import clstm
    >>> clstm.constant(0.1)(1000)
    0.1
    """
    return lambda step: lr


def warmup(lr: float, warmup_steps: int) -> Schedule:
    """Return the schedule that rises linearly over the first `warmup_steps` steps and then stays at `lr`.

    Step s has lr * (s + 1) / warmup_steps, so the first step is not lost.

    Examples
    --------
    >>> import clstm
    >>> [clstm.warmup(1.0, 4)(step) for step in range(6)]
    [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    """
    return lambda step: lr * min(1.0, (step + 1) / max(warmup_steps, 1))


def cosine(lr: float, total_steps: int, warmup_steps: int = 0, final_lr: float = 0.0) -> Schedule:
    """Return the schedule that warms up to `lr`, then falls along half a cosine to `final_lr` at `total_steps`.

    After the warm-up, final_lr + (lr - final_lr) * (1 + cos(pi * t)) / 2 with t from 0 to 1 (Loshchilov &
    Hutter 2017); from `total_steps` on, `final_lr`.

    Parameters
    ----------
    lr : float
        The highest rate.
    total_steps : int
        Steps until `final_lr`, the warm-up included.
    warmup_steps : int, default 0
        Below `total_steps`; see `warmup`.
    final_lr : float, default 0.0

    Examples
    --------
    >>> import clstm
    >>> schedule = clstm.cosine(1.0, total_steps=8, warmup_steps=4)
    >>> [round(schedule(step), 3) for step in range(10)]
    [0.25, 0.5, 0.75, 1.0, 1.0, 0.854, 0.5, 0.146, 0.0, 0.0]
    """
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(f"warmup_steps is {warmup_steps}, but 0 to {total_steps - 1} (total_steps - 1) is expected")
    rise = warmup(lr, warmup_steps)

    def schedule(step: int) -> float:
        if step < warmup_steps:
            return rise(step)
        progress = min(1.0, (step - warmup_steps) / (total_steps - warmup_steps))
        return final_lr + (lr - final_lr) * (1.0 + math.cos(math.pi * progress)) / 2.0

    return schedule
