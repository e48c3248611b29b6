"""The shapes that are measured, and the least time a machine needs for one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from roof import Roof

KINDS = {"step": "One step", "block": "Sample-by-sample blocks", "sequence": "Sequences", "batch": "Batches"}


@dataclass(frozen=True)
class Shape:
    """T time steps, B batch rows, I input_size, H hidden_size."""

    kind: str
    T: int
    B: int
    I: int
    H: int
    layers: int
    bidirectional: bool
    why: str

    @property
    def directions(self) -> int:
        """1, or 2 for a bidirectional network."""
        return 1 + self.bidirectional

    @property
    def layer_inputs(self) -> list[int]:
        """Features that each layer reads."""
        return [self.I] + [self.directions * self.H] * (self.layers - 1)

    @property
    def flops(self) -> int:
        """Operations of a forward pass: 4H (I + H) multiply-adds per layer, direction, step and row, 2 for each."""
        return self.T * self.B * self.directions * sum(8 * self.H * (inputs + self.H) for inputs in self.layer_inputs)

    @property
    def cell_updates(self) -> int:
        """How often a hidden unit is updated: once per layer, direction, step and row, with 5 activations each time."""
        return self.T * self.B * self.directions * self.layers * self.H

    def __str__(self) -> str:
        layers = f", {self.layers} layers" if self.layers > 1 else ""
        return f"{self.T}, {self.B}, {self.I}, {self.H}{layers}{', bidirectional' if self.bidirectional else ''}"


class Bound(NamedTuple):
    """The least seconds, and what takes them: "multiply-adds", or the level that the weights are read from."""

    seconds: float
    reason: str


def load() -> list[Shape]:
    """The shapes of shapes.json."""
    rows = json.loads(Path(__file__).with_name("shapes.json").read_text())["shapes"]
    return [Shape(**row) for row in rows]


def bound(shape: Shape, training: bool, dtype: str, threads: int, isa: str, roof: Roof) -> Bound:
    """The later of two: all multiply-adds at their peak, or all weights that must be read at the bandwidth of where
    they lie. A training step has 3 times the operations, and reads the weights twice."""
    flops = shape.flops * (3 if training else 1)
    multiply_adds = Bound(flops / roof.peak(isa, dtype, threads) * 1e-9, "multiply-adds")
    reads = _read_bound(shape, 8 if dtype == "float64" else 4, threads, roof)
    return max(multiply_adds, reads._replace(seconds=reads.seconds * (2 if training else 1)))


def _read_bound(shape: Shape, itemsize: int, threads: int, roof: Roof) -> Bound:
    """Each step reads all recurrent weights of a layer, which stay as near as they fit. The input weights, and in a
    call of one step all weights, come once per call from where the whole network fits."""
    network = itemsize * shape.directions * sum(4 * shape.H * (inputs + shape.H) for inputs in shape.layer_inputs)
    layer = itemsize * 4 * shape.H * shape.H
    far = roof.level(network, threads)
    near = roof.level(layer, threads) if shape.T > 1 else far
    recurrent = shape.T * shape.layers * shape.directions * layer
    inputs = network - shape.layers * shape.directions * layer
    seconds = (recurrent / near.read[threads] + inputs / far.read[threads]) * 1e-9
    return Bound(seconds, f"{near.name} reads")
