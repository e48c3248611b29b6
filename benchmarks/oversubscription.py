"""Throughput of more Python threads than processors, as a share of the best of all numbers of threads."""

import argparse
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

import clstm

SHAPES = {"rows split": (64, 128, 50, 32), "units split": (128, 256, 50, 1)}  # I, H, T, B
THREADS = (1, 2, 4, 8)
ROUNDS = 9


def calls_per_second(lstm: clstm.LSTM, x: np.ndarray, threads: int, seconds: float) -> float:
    """Calls that so many threads finish together."""

    def work(end: float) -> int:
        calls = 0
        while time.perf_counter() < end:
            lstm(x)
            calls += 1
        return calls

    with ThreadPoolExecutor(threads) as pool:
        start = time.perf_counter()
        done = sum(pool.map(work, [start + seconds] * threads))
        return done / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each measurement")
    seconds = parser.parse_args().seconds
    print(f"clstm uses {clstm.get_num_threads()} threads; median of {ROUNDS} interleaved rounds")
    for name, (inputs, hidden, steps, rows) in SHAPES.items():
        lstm, x = clstm.LSTM(inputs, hidden, seed=0), np.ones((steps, rows, inputs), np.float32)
        lstm(x)
        rates = [[calls_per_second(lstm, x, threads, seconds) for threads in THREADS] for _ in range(ROUNDS)]
        medians = np.median(rates, axis=0)
        for threads, rate in zip(THREADS, medians, strict=True):
            print(f"{name}: {threads} Python threads, {rate:.0f} calls/s, {rate / medians.max():.0%} of the best")


if __name__ == "__main__":
    main()
