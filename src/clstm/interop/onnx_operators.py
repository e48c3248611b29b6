"""The operators of ONNX that usually stand around an LSTM."""

from . import onnx_axes, onnx_elementwise, onnx_shapes
from .onnx_registry import OPERATORS

__all__ = ["OPERATORS", "onnx_axes", "onnx_elementwise", "onnx_shapes"]
