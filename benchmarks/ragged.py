"""Batches of different lengths: per valid step, beside a batch without padding and beside PyTorch's packed path.

    python benchmarks/ragged.py [seconds]

Lengths are uniform in 1..T, in random order. A call takes the padded batch and the lengths, and gives padded outputs;
PyTorch's packs and unpacks for that, as its users do. One thread, float32.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from timeit import Timer
from typing import Any

import numpy as np
from timing import Times, interleaved

import clstm

SHAPES = [(100, 64, 128), (50, 32, 256), (200, 16, 64)]  # T, B, and both sizes
PASSES = ("forward", "training")


def main() -> None:
    """Print a table in Markdown."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    print("| T, B, I = H | pass | dense, steps/ms | ragged, steps/ms | of dense | times PyTorch |")
    print("| --- | --- | --- | --- | --- | --- |")
    for T, B, size in SHAPES:
        lengths = np.random.default_rng(0).integers(1, T + 1, B)
        calls = own_calls(T, B, size, lengths) | pytorch_calls(T, B, size, lengths)
        for name in PASSES:
            timers = {kind: Timer(by_pass[name]) for kind, by_pass in calls.items()}
            print(row(T, B, size, name, lengths, interleaved(timers, seconds)), flush=True)


def row(T: int, B: int, size: int, name: str, lengths: np.ndarray, times: dict[str, Times]) -> str:
    """One line of the table, from medians."""
    dense = T * B / times["dense"].median / 1e3
    ragged = lengths.sum() / times["ragged"].median / 1e3
    of_pytorch = f"{times['PyTorch'].median / times['ragged'].median:.1f}" if "PyTorch" in times else "-"
    return f"| {T}, {B}, {size} | {name} | {dense:,.0f} | {ragged:,.0f} | {ragged / dense:.2f} | {of_pytorch} |"


def own_calls(T: int, B: int, size: int, lengths: np.ndarray) -> dict[str, dict[str, Callable[[], Any]]]:
    """By kind and pass: "dense" takes all steps, "ragged" those of the lengths."""
    clstm.set_num_threads(1)
    rng = np.random.default_rng(1)
    x, dy = rng.standard_normal((2, T, B, size), np.float32)
    lstm = clstm.LSTM(size, size, seed=0, init="pytorch")

    def calls(some: np.ndarray | None) -> dict[str, Callable[[], Any]]:
        return {
            "forward": lambda: lstm(x, lengths=some),
            "training": lambda: lstm.backward(lstm.forward(x, lengths=some)[2], dy),
        }

    return {"dense": calls(None), "ragged": calls(lengths)}


def pytorch_calls(T: int, B: int, size: int, lengths: np.ndarray) -> dict[str, dict[str, Callable[[], Any]]]:
    """torch.nn.LSTM on a packed sequence; nothing if PyTorch is missing."""
    try:
        import torch
        from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
    except ImportError:
        return {}
    torch.set_num_threads(1)
    lstm = torch.nn.LSTM(size, size)
    x, dy = torch.randn(T, B, size), torch.randn(T, B, size)
    leaf, valid = x.clone().requires_grad_(), torch.from_numpy(lengths)

    def run(batch: torch.Tensor) -> torch.Tensor:
        packed = pack_padded_sequence(batch, valid, enforce_sorted=False)
        return pad_packed_sequence(lstm(packed)[0], total_length=T)[0]

    @torch.inference_mode()
    def forward() -> torch.Tensor:
        return run(x)

    def training() -> None:
        lstm.zero_grad()
        leaf.grad = None
        run(leaf).backward(dy)

    return {"PyTorch": {"forward": forward, "training": training}}


if __name__ == "__main__":
    main()
