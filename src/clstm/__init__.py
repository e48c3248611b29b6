"""Long Short-Term Memory networks on CPUs: inference, training and streaming, in C.

`LSTM` is the layer, `LSTMCell` one step of it, `LSTM.stream` a run of steps that keeps its state. `Embedding`,
`Linear`, the losses, the optimizers and `Sequential` make whole models. A plain call of a part is inference;
`forward` records a tape, from which `backward` computes gradients.
"""

from contextlib import suppress as _suppress

from . import plot as plot
from ._core import version as _version
from .cell import LSTMCell
from .embedding import Embedding
from .interop.audio import AudioModel
from .interop.keras_model import KerasModel, from_keras
from .interop.nam import from_nam
from .interop.onnx_export import to_onnx
from .interop.onnx_model import OnnxModel, from_onnx
from .interop.rtneural import from_rtneural
from .linear import Linear
from .losses import cross_entropy, mse_loss
from .lstm import LSTM, Tape
from .module import Module, read_extra
from .optim import SGD, Adam, AdamW, clip_grad_norm
from .packing import (
    PackedSequence,
    pack_padded_sequence,
    pack_sequence,
    pad_packed_sequence,
    pad_sequence,
    unpack_sequence,
    unpad_sequence,
)
from .runtime import cpu_info, get_include, get_num_threads, set_num_threads
from .schedules import constant, cosine, warmup
from .sequential import Sequential
from .serialization import read_safetensors, write_safetensors
from .stream import Stream
from .truncation import Chunk, truncated_bptt

with _suppress(ImportError):  # threadpoolctl is not installed
    from . import _threadpool as _threadpool

__version__ = _version()

__all__ = [
    "LSTM",
    "SGD",
    "Adam",
    "AdamW",
    "AudioModel",
    "Chunk",
    "Embedding",
    "KerasModel",
    "LSTMCell",
    "Linear",
    "Module",
    "OnnxModel",
    "PackedSequence",
    "Sequential",
    "Stream",
    "Tape",
    "clip_grad_norm",
    "constant",
    "cosine",
    "cpu_info",
    "cross_entropy",
    "from_keras",
    "from_nam",
    "from_onnx",
    "from_rtneural",
    "get_include",
    "get_num_threads",
    "mse_loss",
    "pack_padded_sequence",
    "pack_sequence",
    "pad_packed_sequence",
    "pad_sequence",
    "read_extra",
    "read_safetensors",
    "set_num_threads",
    "to_onnx",
    "truncated_bptt",
    "unpack_sequence",
    "unpad_sequence",
    "warmup",
    "write_safetensors",
]
