"""Serves one model from several threads: calls release the GIL, and no lock is needed.

python examples/serve.py [--requests 400] [--workers 2]
"""

import argparse
import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

import clstm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=400, help="default: %(default)s")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="default: one per processor")
    options = parser.parse_args()

    clstm.set_num_threads(1)  # per call: the workers are the parallel part here
    lstm = clstm.LSTM(input_size=64, hidden_size=128, num_layers=2, seed=0)
    rng = np.random.default_rng(0)
    lengths = rng.integers(20, 120, size=options.requests)
    requests = [rng.standard_normal((length, 64), np.float32) for length in lengths]

    def answer(x: np.ndarray) -> np.ndarray:
        """The last output of one sequence, (hidden_size,)."""
        y, _ = lstm(x)
        return y[-1]

    answers = {}
    for workers in sorted({1, options.workers}):
        with ThreadPoolExecutor(workers) as pool:
            start = time.perf_counter()
            answers[workers] = list(pool.map(answer, requests))
            seconds = time.perf_counter() - start
        print(f"{workers} worker{'s' * (workers > 1)}: {options.requests / seconds:,.0f} sequences/s")
    same = all(np.array_equal(*pair) for pair in zip(answers[1], answers[options.workers], strict=True))
    print(f"the same answers to the last bit: {same}")


if __name__ == "__main__":
    main()
