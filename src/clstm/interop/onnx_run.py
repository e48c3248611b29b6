"""One call of an ONNX model: runs its graph and the graphs inside it, within limits of memory and of steps."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from ..lstm import LSTM
from .onnx_file import Graph, Node
from .onnx_lstm import inputs_of, lstms_of, run_lstm
from .onnx_operators import OPERATORS

Values = ChainMap[str, np.ndarray]  # of a graph, its constants, and the graphs around it: no copies of what is there


class Run:
    """What a call has made so far, and how it computes each node.

    Parameters
    ----------
    lstms : mapping of int to list of LSTM
        By the id of the node; of a node that is not there, the weights are among the values.
    memory_limit : int
        Bytes that the arrays may take that exist at one time; what they share with each other counts once.
    step_limit : int
        Nodes and iterations of loops that may be run.
    """

    def __init__(self, lstms: Mapping[int, list[LSTM]], memory_limit: int, step_limit: int) -> None:
        self._lstms = lstms
        self._memory_limit, self._step_limit = memory_limit, step_limit
        self._bytes = self._steps = 0

    def graph(self, graph: Graph, values: Values) -> list[np.ndarray]:
        """Outputs of a graph; `values` are its inputs, and what it sees of the graphs around it."""
        values = values.new_child(graph.constants).new_child()
        for node in graph.nodes:
            self._count_step()
            try:
                outputs = self._compute(node, values)
            except (LookupError, AttributeError, TypeError, ValueError, ArithmeticError) as error:
                raise ValueError(f"{node.op} {node.name!r} cannot be computed: {error}") from error
            self._count_bytes(outputs, (values[name] for name in node.inputs if name))
            values.update(zip(node.outputs, outputs, strict=False))
        return [_value(values, name) for name in graph.outputs]

    def _count_step(self) -> None:
        self._steps += 1
        if self._steps > self._step_limit:
            raise ValueError(f"the call takes more steps than step_limit, which is {self._step_limit}")

    def _count_bytes(self, made: Iterable[np.ndarray], others: Iterable[np.ndarray] = ()) -> None:
        """Add what `made` takes, without views of others."""
        others = list(others)
        for array in made:
            if array.base is None or not any(np.may_share_memory(array, other) for other in others):
                self._bytes += array.nbytes
        if self._bytes > self._memory_limit:
            raise ValueError(f"the call makes {self._bytes} bytes, but memory_limit is {self._memory_limit}")

    def _compute(self, node: Node, values: Values) -> tuple[np.ndarray, ...]:
        if node.op == "Constant":
            return (constant_value(node),)
        if node.op == "LSTM":
            found = {key: _value(values, name) for key, name in inputs_of(node).items()}
            return run_lstm(node, self._lstms.get(id(node)) or lstms_of(node, dict(found)), found)
        inputs = [_value(values, name) if name else None for name in node.inputs]
        if node.op in CONTROL:
            return CONTROL[node.op](self, node, inputs, values)
        return as_tuple(OPERATORS[node.op](node, inputs))

    # ---- operators with subgraphs ----

    def _body(self, body: Graph, arguments: list[np.ndarray], values: Values) -> list[np.ndarray]:
        self._count_step()
        before = self._bytes
        results = self.graph(body, values.new_child(dict(zip(body.inputs, arguments, strict=True))))
        self._bytes = before
        return results

    def _if(self, node: Node, inputs: list[Any], values: Values) -> tuple[np.ndarray, ...]:
        return tuple(self._body(node.attributes["then_branch" if inputs[0].item() else "else_branch"], [], values))

    def _loop(self, node: Node, inputs: list[Any], values: Values) -> tuple[np.ndarray, ...]:
        """Run body(i, condition, carried) -> (condition, carried, collected) while the condition holds."""
        body = node.attributes["body"]
        count, condition, carried = inputs[0], inputs[1], list(inputs[2:])
        going = condition is None or bool(condition.item())
        collected = _Collected(self, len(body.outputs) - 1 - len(carried))
        i = 0
        while going and (count is None or i < count.item()):
            arguments = [np.array(i, np.int64), np.array(going), *carried]
            results = self._body(body, arguments, values)
            going, carried = bool(results[0].item()), results[1 : 1 + len(carried)]
            collected.add(results[1 + len(carried) :])
            i += 1
        return (*carried, *collected.stacked())

    def _scan(self, node: Node, inputs: list[Any], values: Values) -> tuple[np.ndarray, ...]:
        """Run body(carried, slices) -> (carried, collected) over the first axis of the scanned inputs."""
        others = set(node.attributes) - {"body", "num_scan_inputs"}
        if odd := sorted(key for key in others if any(node.attributes[key])) or node.opset < 9:
            raise NotImplementedError(f"Scan with {odd} is not supported")
        body, scanned = node.attributes["body"], node.attributes["num_scan_inputs"]
        carried, sequences = inputs[:-scanned], inputs[-scanned:]
        collected = _Collected(self, len(body.outputs) - len(carried))
        for slices in zip(*sequences, strict=True):
            results = self._body(body, [*carried, *slices], values)
            carried = results[: len(carried)]
            collected.add(results[len(carried) :])
        return (*carried, *collected.stacked())


class _Collected:
    """What the iterations of a loop return to be put together."""

    def __init__(self, run: Run, count: int) -> None:
        self._run, self._before = run, run._bytes
        self._parts: list[list[np.ndarray]] = [[] for _ in range(count)]

    def add(self, parts: list[np.ndarray]) -> None:
        """One iteration's arrays. A view is copied, so that it does not keep what it is part of."""
        for kept, part in zip(self._parts, parts, strict=True):
            kept.append(part.copy())
        self._run._count_bytes(parts)

    def stacked(self) -> list[np.ndarray]:
        """One array for each, with an axis of iterations in front."""
        self._run._bytes = self._before
        return [np.stack(parts) if parts else np.zeros(0, np.float32) for parts in self._parts]


CONTROL: dict[str, Callable[[Run, Node, list[Any], Values], tuple[np.ndarray, ...]]] = {
    "If": Run._if,
    "Loop": Run._loop,
    "Scan": Run._scan,
}


def as_tuple(outputs: Any) -> tuple[np.ndarray, ...]:
    """What an operator returned, as arrays."""
    return tuple(np.asarray(array) for array in (outputs if isinstance(outputs, tuple) else (outputs,)))


def _value(values: Values, name: str) -> np.ndarray:
    if name not in values:
        raise ValueError(f"{name!r} is read, but nothing made it")
    if values[name].dtype.hasobject:
        raise NotImplementedError(f"{name!r} holds text, which is not supported")
    return values[name]


def constant_value(node: Node) -> np.ndarray:
    """The array of a Constant node."""
    types = {"value": None, "value_float": np.float32, "value_floats": np.float32, "value_int": np.int64,
             "value_ints": np.int64}  # fmt: skip
    for key, dtype in types.items():
        if node.attributes.get(key) is not None:
            return np.asarray(node.attributes[key], dtype)
    raise NotImplementedError(f"Constant {node.name!r} holds {', '.join(node.attributes)}, which is not supported")
