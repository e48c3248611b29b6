"""The table of operators: a function of the node and its inputs for each name (https://onnx.ai/onnx/operators/).

Inputs are arrays, None where an optional one is left out; the function returns the output, or a tuple of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .onnx_file import Node

Inputs = list[Any]
Operator = Callable[[Node, Inputs], Any]
OPERATORS: dict[str, Operator] = {}

# ONNX's numbers of types (TensorProto.DataType) that numpy has.
DTYPES = {
    1: np.float32, 2: np.uint8, 3: np.int8, 4: np.uint16, 5: np.int16, 6: np.int32, 7: np.int64, 9: np.bool_,
    10: np.float16, 11: np.float64, 12: np.uint32, 13: np.uint64,
}  # fmt: skip


def operator(*names: str) -> Callable[[Operator], Operator]:
    """Register a function under the names of operators."""

    def register(function: Operator) -> Operator:
        OPERATORS.update(dict.fromkeys(names, function))
        return function

    return register
