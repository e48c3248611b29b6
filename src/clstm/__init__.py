"""Long Short-Term Memory networks on CPUs: inference, training and streaming, in C.

`LSTM` is the layer, `LSTMCell` one step of it, `LSTM.stream` a run of steps that keeps its state. `Embedding`,
`Linear`, the losses, the optimizers and `Sequential` make whole models. A plain call of a part is inference;
`forward` records a tape, from which `backward` computes gradients.
"""

from contextlib import suppress as _suppress
from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING

from ._core import version as _version
from .cell import LSTMCell
from .embedding import Embedding
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
from .runtime import warn_of_environment as _warn_of_environment
from .schedules import constant, cosine, warmup
from .sequential import Sequential
from .serialization import read_safetensors, write_safetensors
from .stream import Stream
from .truncation import Chunk, truncated_bptt

_warn_of_environment()

with _suppress(ImportError):  # threadpoolctl is not installed
    from . import _threadpool as _threadpool

# Models from elsewhere, and pictures: imported when they are asked for, for most programs never do.
if _TYPE_CHECKING:
    from . import plot as plot
    from .interop.audio import AudioModel
    from .interop.keras_model import KerasModel, from_keras
    from .interop.nam import from_nam
    from .interop.onnx_export import to_onnx
    from .interop.onnx_model import OnnxModel, from_onnx
    from .interop.rtneural import from_rtneural
else:
    _INTEROP = {
        "AudioModel": "audio",
        "KerasModel": "keras_model",
        "OnnxModel": "onnx_model",
        "from_keras": "keras_model",
        "from_nam": "nam",
        "from_onnx": "onnx_model",
        "from_rtneural": "rtneural",
        "to_onnx": "onnx_export",
    }

    def __getattr__(name: str) -> object:
        if name == "plot":
            return _import_module(".plot", __name__)
        if name not in _INTEROP:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value = getattr(_import_module(f".interop.{_INTEROP[name]}", __name__), name)
        return value

    def __dir__() -> list[str]:
        return sorted(globals().keys() | _INTEROP.keys() | {"plot"})


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
