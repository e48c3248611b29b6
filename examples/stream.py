"""Runs a model sample by sample, as audio or sensor data comes in, and moves it to another process halfway.

python examples/stream.py [--samples 2000]
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

import clstm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--samples", type=int, default=2000, help="default: %(default)s")
    options = parser.parse_args()
    lstm = clstm.LSTM(input_size=4, hidden_size=32, seed=0)
    x = np.random.default_rng(0).standard_normal((options.samples, 4), np.float32)
    y = np.empty((options.samples, 32), np.float32)
    half = options.samples // 2

    stream = lstm.stream()
    start = time.perf_counter()
    for x_t, y_t in zip(x[:half], y[:half], strict=True):
        stream.step(x_t, out=y_t)  # allocates nothing
    seconds = time.perf_counter() - start
    print(f"{1e6 * seconds / half:.2f} microseconds a sample")

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.safetensors"
        lstm.save(path)
        moved = clstm.LSTM.load(path).stream()
    moved.state = stream.state  # (h, c), each (num_layers, batch_size, hidden_size)
    for x_t, y_t in zip(x[half:], y[half:], strict=True):
        moved.step(x_t, out=y_t)

    whole, _ = lstm(x)
    print(f"the same as the whole sequence at once, to the last bit: {np.array_equal(y, whole)}")


if __name__ == "__main__":
    main()
