"""Learns to forecast a signal: two waves whose periods do not divide each other, and noise.

python examples/forecast.py [--steps 300] [--hidden-size 32]
"""

import argparse

import numpy as np

import clstm

WINDOW, BATCH = 64, 32  # steps and sequences of a training batch


def make_signal(n: int, rng: np.random.Generator) -> np.ndarray:
    t = np.arange(n)
    waves = 0.6 * np.sin(2 * np.pi * t / 12) + 0.4 * np.sin(2 * np.pi * t / 17.3)
    return (waves + 0.05 * rng.standard_normal(n)).astype(np.float32)


def make_batch(signal: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Random windows, (time, batch, 1), and the same one step later."""
    starts = rng.integers(len(signal) - WINDOW, size=BATCH)
    windows = signal[starts + np.arange(WINDOW + 1)[:, None], None]
    return windows[:-1], windows[1:]


def forecast(model: clstm.Sequential, past: np.ndarray, steps: int) -> np.ndarray:
    """Reads the past, then feeds the model its own forecasts."""
    y, state = model(past[:, None, None])
    values = [y[-1]]
    while len(values) < steps:
        y, state = model(values[-1][None], state)
        values.append(y[-1])
    return np.concatenate(values)[:, 0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=300, help="training steps (default: %(default)s)")
    parser.add_argument("--hidden-size", type=int, default=32, help="default: %(default)s")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    past, future = np.split(make_signal(3024, rng), [3000])
    model = clstm.Sequential(clstm.LSTM(1, options.hidden_size, seed=0), clstm.Linear(options.hidden_size, 1, seed=0))
    optimizer = clstm.Adam(model, lr=0.01)
    for step in range(options.steps):
        x, target = make_batch(past, rng)
        y, _, tape = model.forward(x)
        loss, dy = clstm.mse_loss(y, target)
        optimizer.step(model.backward(tape, dy)[2])
        if step % 50 == 0:
            print(f"step {step:4}  mean squared error {loss:.4f}")
    error = np.sqrt(np.mean((forecast(model, past[-200:], len(future)) - future) ** 2))
    print(f"error over the next {len(future)} steps: {error:.3f} (the signal's size: {np.std(future):.3f})")


if __name__ == "__main__":
    main()
