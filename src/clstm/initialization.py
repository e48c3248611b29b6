"""Initial values of LSTM parameters."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

Initializer = Callable[[dict[str, np.ndarray], int, "np.random.Generator", str], None]


def default(parameters: dict[str, np.ndarray], hidden_size: int, rng: np.random.Generator, gates: str = "ifgo") -> None:
    """Glorot uniform W_ih and W_hr (Glorot & Bengio 2010), orthogonal W_hh (Saxe et al. 2014), each gate by itself;
    forget gate's bias 1 (Gers et al. 2000; Jozefowicz et al. 2015), so that the cell remembers from the start;
    without weights of f, the input gate's bias is -1 (Hochreiter & Schmidhuber 1997). Peepholes start at 0, as if there
    were none; gains of layer normalisation at 1."""
    for name, array in parameters.items():
        if name.startswith(("weight_ih", "weight_hr")):
            bound = math.sqrt(6 / (hidden_size + array.shape[-1 if name.startswith("weight_ih") else 0]))
            array[...] = rng.uniform(-bound, bound, array.shape)
        elif name.startswith("weight_hh"):
            for gate in array.reshape(len(gates), hidden_size, -1):
                gate[...] = orthogonal(hidden_size, rng)[:, : gate.shape[1]]
        elif name.startswith("weight_ln"):
            array[...] = 1
        else:
            array[...] = 0
            if name.startswith("bias_ih"):
                biased, bias = ("f", 1) if "f" in gates else ("i", -1)
                array.reshape(len(gates), hidden_size)[gates.index(biased)] = bias


def orthogonal(size: int, rng: np.random.Generator) -> np.ndarray:
    """A random orthogonal matrix, uniform over all of them (Mezzadri 2007)."""
    q, r = np.linalg.qr(rng.standard_normal((size, size)))
    return np.asarray(q * np.sign(np.diag(r)))


def pytorch(parameters: dict[str, np.ndarray], hidden_size: int, rng: np.random.Generator, gates: str = "ifgo") -> None:
    """Everything uniform in +-1/sqrt(hidden_size), as `torch.nn.LSTM`; gains of layer normalisation 1."""
    bound = 1 / math.sqrt(hidden_size)
    for name, array in parameters.items():
        array[...] = 1 if name.startswith("weight_ln") else rng.uniform(-bound, bound, array.shape)


INITIALIZERS: dict[str, Initializer] = {"default": default, "pytorch": pytorch}
