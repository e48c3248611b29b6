"""ONNX files as plain Python: graphs of nodes with numpy arrays. Nothing of protobuf is left after reading.

The format: https://onnx.ai/onnx/repo-docs/IR.html.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ..serialization import FilePath, read_file
from .building import reading, require

AGAIN = 16  # times the size of the files: what tensors may read of them


class Node(NamedTuple):
    """One operation."""

    name: str  # its own, or that of its first output
    op: str  # with the domain before it unless that is ONNX's own
    inputs: tuple[str, ...]  # "" where an optional one is left out
    outputs: tuple[str, ...]
    attributes: dict[str, Any]  # numbers, lists of them, arrays, graphs
    opset: int  # version of the operator set of its domain


class Graph(NamedTuple):
    """Operations in an order in which they can run."""

    inputs: tuple[str, ...]  # without those that initializers give a value
    outputs: tuple[str, ...]
    types: dict[str, int]  # of the inputs, TensorProto.DataType; 0 where it is not said
    constants: dict[str, np.ndarray]  # initializers
    nodes: tuple[Node, ...]

    def walk(self) -> Iterator[tuple[Graph, Node]]:
        """Yield all nodes with their graph, those of subgraphs too."""
        for node in self.nodes:
            yield self, node
            for value in node.attributes.values():
                if isinstance(value, Graph):
                    yield from value.walk()


class File(NamedTuple):
    """What was read, and how many bytes that was."""

    graph: Graph
    size: int


def read_onnx(path: FilePath) -> File:
    """Read a model and the files beside it that hold its data. It raises what `from_onnx` does."""
    onnx = require("onnx", "onnx")
    decode_error = require("google.protobuf.message", "onnx").DecodeError
    data = read_file(path)
    with reading(path, decode_error, KeyError, IndexError):
        model = onnx.ModelProto.FromString(data)
        if not model.HasField("graph") or not model.opset_import:
            raise ValueError("it is no ONNX model: it has no graph, or no operator set")
        if model.functions:
            raise NotImplementedError(f"local functions ({model.functions[0].name!r}, ...) are not supported")
        reader = _Reader(onnx, path, {opset.domain: opset.version for opset in model.opset_import}, len(data))
        return File(reader.graph(model.graph), reader.size)


class _Reader:
    def __init__(self, onnx: Any, path: FilePath, opsets: dict[str, int], size: int) -> None:
        self._onnx = onnx
        self._folder = os.path.dirname(os.path.realpath(os.fsdecode(path)))
        self._opsets = {"": opsets.get("ai.onnx", 1)} | opsets
        self.size = size
        self._files = {"": size}  # by path; "": the model's own

    def graph(self, proto: Any) -> Graph:
        if proto.sparse_initializer:
            raise NotImplementedError("sparse initializers are not supported")
        constants = {tensor.name: self.array(tensor) for tensor in proto.initializer}
        inputs = tuple(value.name for value in proto.input if value.name not in constants)
        outputs = tuple(value.name for value in proto.output)
        types = {value.name: value.type.tensor_type.elem_type for value in proto.input}
        return Graph(inputs, outputs, types, constants, tuple(self.node(node) for node in proto.node))

    def node(self, proto: Any) -> Node:
        domain = "" if proto.domain == "ai.onnx" else proto.domain
        return Node(
            name=proto.name or next((name for name in proto.output if name), proto.op_type),
            op=f"{domain}.{proto.op_type}" if domain else proto.op_type,
            inputs=tuple(proto.input),
            outputs=tuple(proto.output),
            attributes={attribute.name: self.attribute(attribute) for attribute in proto.attribute},
            opset=self._opsets.get(domain, 1),
        )

    def attribute(self, proto: Any) -> Any:
        kinds = self._onnx.AttributeProto
        if proto.type == kinds.TENSOR:
            return self.array(proto.t)
        if proto.type == kinds.GRAPH:
            return self.graph(proto.g)
        if proto.type == kinds.STRING:
            return proto.s.decode()
        if proto.type == kinds.STRINGS:
            return [text.decode() for text in proto.strings]
        plain = {kinds.FLOAT: "f", kinds.INT: "i", kinds.FLOATS: "floats", kinds.INTS: "ints"}
        if proto.type not in plain:
            return None  # no operator here has such an attribute
        value = getattr(proto, plain[proto.type])
        return value if isinstance(value, (int, float)) else list(value)

    def array(self, tensor: Any) -> np.ndarray:
        if any(size < 0 for size in tensor.dims):
            raise ValueError(f"tensor {tensor.name!r:.60} has the dimensions {list(tensor.dims)}")
        if tensor.data_location == self._onnx.TensorProto.EXTERNAL:
            data = self.external_data(tensor)
            tensor = self._onnx.TensorProto(data_type=tensor.data_type, dims=tensor.dims, raw_data=data)
        array: np.ndarray = self._onnx.numpy_helper.to_array(tensor)
        return array

    def external_data(self, tensor: Any) -> bytes:
        """The bytes of a tensor in a file beside the model; no other file is opened."""
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries["location"]
        target = os.path.realpath(os.path.join(self._folder, location))
        if os.path.commonpath([target, self._folder]) != self._folder:
            raise ValueError(f"tensor {tensor.name!r:.60} points outside of the model's folder: {location!r:.60}")
        if not os.path.isfile(target):
            raise ValueError(f"tensor {tensor.name!r:.60} needs the file {location!r:.60} beside the model")
        dtype = self._onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        needed, end = math.prod(tensor.dims) * dtype.itemsize, os.path.getsize(target)
        offset = int(entries.get("offset", 0))
        length = int(entries.get("length", needed))
        if offset < 0 or length < 0 or offset + length > end:
            raise ValueError(f"tensor {tensor.name!r:.60} lies outside of {location!r:.60}: {length} bytes at {offset}")
        if length > needed:
            raise ValueError(f"tensor {tensor.name!r:.60} has {length} bytes, but {list(tensor.dims)} needs {needed}")
        self._files[target] = end
        self.size += length
        if self.size > AGAIN * sum(self._files.values()):
            raise ValueError(f"tensors take more than {AGAIN} times the bytes of their files")
        with open(target, "rb") as file:
            file.seek(offset)
            return file.read(length)
