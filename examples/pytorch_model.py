"""Trains a PyTorch model whose LSTM computes here, then serves it without PyTorch.

python examples/pytorch_model.py [--steps 150]
"""

import argparse
import os
import tempfile

import numpy as np
import safetensors.torch
import torch

import clstm
import clstm.torch


class Counter(torch.nn.Module):
    """Counts the ones among the bits so far."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = clstm.torch.LSTM(1, 32, batch_first=True)  # the only line that differs from torch.nn.LSTM's
        self.head = torch.nn.Linear(32, 1)

    def forward(self, bits: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(bits)[0])


def train(steps: int) -> Counter:
    torch.manual_seed(0)
    model = Counter()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(steps):
        bits = torch.randint(2, (32, 12, 1)).float()
        loss = torch.nn.functional.mse_loss(model(bits), bits.cumsum(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0:
            print(f"step {step:4}  mean squared error {loss.item():.4f}")
    return model


def load(path: str) -> clstm.Sequential:
    """The same model, read from the file by prefix; nothing here needs torch."""
    arrays, _ = clstm.read_safetensors(path)
    lstm = clstm.LSTM.from_state_dict(path, "lstm.", batch_first=True)
    head = clstm.Linear(lstm.hidden_size, 1)
    head.load_state_dict({"weight": arrays["head.weight"], "bias": arrays["head.bias"]})
    return clstm.Sequential(lstm, head)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=150, help="training steps (default: %(default)s)")
    model = train(parser.parse_args().steps)
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "model.safetensors")
        safetensors.torch.save_file(model.state_dict(), path)
        served = load(path)
    bits = np.array([0, 1, 1, 0, 1, 0, 0, 1, 1, 1], np.float32)[None, :, None]
    counts, _ = served(bits)
    with torch.no_grad():
        difference = np.abs(counts - model(torch.from_numpy(bits)).numpy()).max()
    print("ones so far:", " ".join(f"{count:.1f}" for count in counts.ravel()))
    print(f"largest difference from PyTorch: {difference:.0e}")


if __name__ == "__main__":
    main()
