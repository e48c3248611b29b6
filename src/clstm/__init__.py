"""Long Short-Term Memory networks on CPUs: inference, training and streaming, in C.

`LSTM` is the layer, `LSTMCell` one step of it, `LSTM.stream` a run of steps that keeps its state. `Embedding`,
`Linear`, the losses, the optimizers and `Sequential` make whole models. A plain call of a part is inference;
`forward` records a tape, from which `backward` computes gradients.
"""

from contextlib import suppress as _suppress

from ._core import version as _version
from .cell import LSTMCell
from .embedding import Embedding
from .linear import Linear
from .losses import cross_entropy, mse_loss
from .lstm import LSTM, Tape
from .module import Module, read_extra
from .optim import SGD, Adam, AdamW, clip_grad_norm
from .runtime import cpu_info, get_include, get_num_threads, set_num_threads
from .schedules import constant, cosine, warmup
from .sequential import Sequential
from .serialization import read_safetensors, write_safetensors
from .stream import Stream

with _suppress(ImportError):  # threadpoolctl is not installed
    from . import _threadpool as _threadpool

__version__ = _version()

__all__ = [
    "LSTM",
    "SGD",
    "Adam",
    "AdamW",
    "Embedding",
    "LSTMCell",
    "Linear",
    "Module",
    "Sequential",
    "Stream",
    "Tape",
    "clip_grad_norm",
    "constant",
    "cosine",
    "cpu_info",
    "cross_entropy",
    "get_include",
    "get_num_threads",
    "mse_loss",
    "read_extra",
    "read_safetensors",
    "set_num_threads",
    "warmup",
    "write_safetensors",
]
