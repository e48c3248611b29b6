"""The libraries that are compared. Each turns a problem into calls: "forward", and "training" if it trains.

A forward call starts from zero states and returns y. A training call is forward and backward: the gradients with
respect to x and all parameters, given dy.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
from shapes import Shape

import clstm

Calls = dict[str, Callable[[], Any]]


@dataclass(frozen=True)
class Problem:
    """A shape filled with numbers: parameters under PyTorch's names, x (T, B, I) and dy (T, B, D*H)."""

    shape: Shape
    dtype: str
    threads: int
    parameters: dict[str, np.ndarray]
    x: np.ndarray
    dy: np.ndarray


def make_problem(shape: Shape, dtype: str, threads: int) -> Problem:
    """Weights as PyTorch initialises them, normal x and dy."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((shape.T, shape.B, shape.I)).astype(dtype)
    dy = rng.standard_normal((shape.T, shape.B, shape.directions * shape.H)).astype(dtype)
    parameters = _lstm(shape, dtype).state_dict()
    return Problem(shape, dtype, threads, parameters, x, dy)


def _lstm(shape: Shape, dtype: str) -> clstm.LSTM:
    return clstm.LSTM(
        shape.I,
        shape.H,
        shape.layers,
        bidirectional=shape.bidirectional,
        dtype=dtype,
        seed=0,
        init="pytorch",
    )


def clstm_calls(problem: Problem) -> Calls:
    """This project."""
    lstm = _lstm(problem.shape, problem.dtype)
    clstm.set_num_threads(problem.threads)

    def training() -> None:
        _, _, tape = lstm.forward(problem.x)
        lstm.backward(tape, problem.dy)

    return {"forward": lambda: lstm(problem.x)[0], "training": training}


def pytorch_calls(problem: Problem) -> Calls:
    """torch.nn.LSTM: forward in evaluation and inference mode, training by autograd."""
    import torch

    torch.set_num_threads(problem.threads)
    shape = problem.shape

    def module() -> Any:
        dtype = getattr(torch, problem.dtype)
        lstm = torch.nn.LSTM(shape.I, shape.H, shape.layers, bidirectional=shape.bidirectional, dtype=dtype)
        lstm.load_state_dict({name: torch.from_numpy(array) for name, array in problem.parameters.items()})
        return lstm

    evaluated, trained = module().eval(), module().train()
    x, dy = torch.from_numpy(problem.x), torch.from_numpy(problem.dy)
    leaf = x.clone().requires_grad_()

    @torch.inference_mode()
    def forward() -> Any:
        return evaluated(x)[0]

    def training() -> None:
        trained.zero_grad()
        leaf.grad = None
        trained(leaf)[0].backward(dy)

    return {"forward": forward, "training": training}


def onnxruntime_calls(problem: Problem) -> Calls:
    """ONNX Runtime's LSTM operator, which knows float32 only."""
    if problem.dtype != "float32":
        return {}
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = problem.threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(_onnx_model(problem), options, providers=["CPUExecutionProvider"])
    return {"forward": lambda: session.run(None, {"x": problem.x})[0]}


def openvino_calls(problem: Problem) -> Calls:
    """OpenVINO's CPU plugin on the same ONNX model, in float32 throughout."""
    if problem.dtype != "float32":
        return {}
    import openvino

    core = openvino.Core()
    settings = {
        "INFERENCE_NUM_THREADS": problem.threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    model = core.compile_model(core.read_model(_onnx_model(problem)), "CPU", settings)
    request = model.create_infer_request()
    return {"forward": lambda: request.infer({0: problem.x}, share_inputs=True, share_outputs=True)[0]}


LIBRARIES: dict[str, Callable[[Problem], Calls]] = {
    "clstm": clstm_calls,
    "PyTorch": pytorch_calls,
    "ONNX Runtime": onnxruntime_calls,
    "OpenVINO": openvino_calls,
}
_PACKAGES = {
    "clstm": ("clstm",),
    "PyTorch": ("torch",),
    "ONNX Runtime": ("onnxruntime", "onnx"),
    "OpenVINO": ("openvino", "onnx"),
}


def installed() -> dict[str, str]:
    """Versions of the libraries that are installed, by name."""
    return {
        name: version(packages[0])
        for name, packages in _PACKAGES.items()
        if all(importlib.util.find_spec(package) for package in packages)
    }


def make_calls(problem: Problem, names: list[str]) -> dict[str, Calls]:
    """The calls of each library, after making sure that all compute the same."""
    calls = {name: LIBRARIES[name](problem) for name in names}
    expected = calls["clstm"]["forward"]()
    for name, by_pass in calls.items():
        if "forward" in by_pass:
            found = np.asarray(by_pass["forward"]())
            np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=0, atol=1e-4, err_msg=name)
    return calls


def _onnx_model(problem: Problem) -> bytes:
    """One LSTM node per layer; the output (T, D, B, H) of each becomes (T, B, D*H)."""
    from onnx import TensorProto, helper, numpy_helper

    shape = problem.shape
    suffixes = ["", "_reverse"][: shape.directions]
    arrays: dict[str, np.ndarray] = {}
    if shape.bidirectional:
        arrays["shape"] = np.array(problem.dy.shape)
    else:
        arrays["axis"] = np.array([1])
    nodes, x = [], "x"
    for layer in range(shape.layers):
        names = [f"{kind}{layer}" for kind in "WRB"]
        parts = zip(*(_onnx_parameters(problem, f"_l{layer}{suffix}") for suffix in suffixes), strict=True)
        arrays |= dict(zip(names, map(np.stack, parts), strict=True))
        direction = "bidirectional" if shape.bidirectional else "forward"
        raw, y = f"raw{layer}", f"y{layer}"
        nodes.append(helper.make_node("LSTM", [x, *names], [raw], hidden_size=shape.H, direction=direction))
        if shape.bidirectional:
            nodes.append(helper.make_node("Transpose", [raw], [f"{raw}t"], perm=[0, 2, 1, 3]))
            nodes.append(helper.make_node("Reshape", [f"{raw}t", "shape"], [y]))
        else:
            nodes.append(helper.make_node("Squeeze", [raw, "axis"], [y]))
        x = y
    graph = helper.make_graph(
        nodes,
        "lstm",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, problem.x.shape)],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, problem.dy.shape)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


def _onnx_parameters(problem: Problem, suffix: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """W, R and B of one direction: ONNX orders the gates i, o, f, g."""

    def reordered(name: str) -> np.ndarray:
        i, f, g, o = np.split(problem.parameters[name + suffix], 4)
        return np.concatenate([i, o, f, g])

    biases = np.concatenate([reordered("bias_ih"), reordered("bias_hh")])
    return reordered("weight_ih"), reordered("weight_hh"), biases
