"""Beside other implementations: PyTorch forward and backward, ONNX Runtime forward."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import Problem, called, named, outputs, problems, torch_lstm

import clstm

STATES = {"float32": 2e-6, "float64": 1e-13}  # absolute; of gradients, relative to their size

sizes = {"sizes": (1, 3, 7, 13, 17, 33, 65), "batches": (1, 2, 5, 17), "steps": (1, 2, 8, 21)}


def assert_close(found, expected, tolerance):
    assert found.keys() == expected.keys()
    for name in found:
        scale = 1 if name in ("y", "h_n", "c_n") else max(1, np.abs(expected[name]).max())
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=tolerance * scale, err_msg=name)


# ---- PyTorch ----


def import_torch():
    """PyTorch on one thread: its problems here are small, and other programs want the processors too."""
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    return torch


def torch_outputs(problem, parameters, batch):
    """Everything a training step returns, by PyTorch's autograd. Padding is cut off by pack_padded_sequence, which
    refuses length 0."""
    torch = import_torch()
    module = torch_lstm(torch, problem)
    module.load_state_dict({name: torch.from_numpy(array) for name, array in parameters.items()})
    x = torch.from_numpy(batch.x.copy()).requires_grad_()
    state = batch.state or np.zeros((2, *batch.dstate[0].shape), problem.dtype)
    h_0, c_0 = (torch.from_numpy(array.copy()).requires_grad_() for array in state)
    if batch.lengths is None:
        y, (h_n, c_n) = module(x, (h_0, c_0))
    else:
        rnn = torch.nn.utils.rnn
        packed = rnn.pack_padded_sequence(x, torch.from_numpy(batch.lengths), enforce_sorted=False)
        packed, (h_n, c_n) = module(packed, (h_0, c_0))
        y, _ = rnn.pad_packed_sequence(packed, total_length=problem.T)
    torch.autograd.backward((y, h_n, c_n), tuple(torch.from_numpy(array) for array in (batch.dy, *batch.dstate)))
    found = {"y": y, "h_n": h_n, "c_n": c_n, "dx": x.grad, "dh_0": h_0.grad, "dc_0": c_0.grad}
    found |= {name: parameter.grad for name, parameter in module.named_parameters()}
    return {name: tensor.detach().numpy() for name, tensor in found.items()}


def positive_lengths(batch):
    return batch if batch.lengths is None else batch._replace(lengths=np.maximum(batch.lengths, 1))


@settings(max_examples=60)
@given(problems(**sizes))
def test_pytorch_agrees_forward_and_backward(problem):
    lstm, batch = problem.lstm(), positive_lengths(problem.batch())
    expected = torch_outputs(problem, lstm.state_dict(), batch)
    assert_close(outputs(lstm, batch), expected, STATES[problem.dtype])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_pytorch_agrees_on_a_long_sequence(bidirectional, dtype):
    problem = Problem(24, 48, 2, bidirectional, dtype=dtype, T=150, B=9, with_lengths=True)
    lstm, batch = problem.lstm(), positive_lengths(problem.batch())
    expected = torch_outputs(problem, lstm.state_dict(), batch)
    assert_close(outputs(lstm, batch), expected, STATES[dtype])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_pytorch_agrees_on_one_training_run(dtype):
    """Ten steps of Adam on both sides."""
    torch = import_torch()
    problem = Problem(5, 13, 2, dtype=dtype, T=11, B=4)
    lstm, batch = problem.lstm(), problem.batch()
    module = torch.nn.LSTM(5, 13, 2, dtype=getattr(torch, dtype))
    module.load_state_dict({name: torch.from_numpy(array) for name, array in lstm.state_dict().items()})
    ours, theirs = clstm.Adam(lstm, lr=0.01), torch.optim.Adam(module.parameters(), lr=0.01)
    for _ in range(10):
        y, _, tape = lstm.forward(batch.x)
        _, _, grads = lstm.backward(tape, y - batch.dy)
        ours.step(grads)
        theirs.zero_grad()
        y_theirs, _ = module(torch.from_numpy(batch.x))
        torch.square(y_theirs - torch.from_numpy(batch.dy)).sum().div(2).backward()
        theirs.step()
    expected = {name: parameter.detach().numpy() for name, parameter in module.named_parameters()}
    for name, array in lstm.state_dict().items():
        np.testing.assert_allclose(array, expected[name], rtol=0, atol={"float32": 2e-5, "float64": 1e-12}[dtype])


# ---- ONNX Runtime ----


def onnx_outputs(problem, parameters, batch):
    """y, h_n and c_n by ONNX's LSTM operator, whose gates lie in the order i, o, f, g; it takes one layer."""
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    D, H = 1 + problem.bidirectional, problem.hidden_size
    suffixes = ["l0", "l0_reverse"][:D]

    def reordered(name):
        i, f, g, o = np.split(parameters[name], 4)
        return np.concatenate([i, o, f, g])

    def stacked(kind):
        return np.stack([reordered(f"{kind}_{suffix}") for suffix in suffixes])

    feeds = {"X": batch.x, "W": stacked("weight_ih"), "R": stacked("weight_hh")}
    if problem.bias:
        feeds["B"] = np.concatenate([stacked("bias_ih"), stacked("bias_hh")], axis=1)
    if batch.lengths is not None:
        feeds["sequence_lens"] = batch.lengths.astype(np.int32)
    if batch.state:
        feeds["initial_h"], feeds["initial_c"] = batch.state
    inputs = ["X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c"]
    node = onnx.helper.make_node(
        "LSTM",
        [name if name in feeds else "" for name in inputs],
        ["Y", "Y_h", "Y_c"],
        hidden_size=H,
        direction="bidirectional" if D == 2 else "forward",
    )
    types = {name: onnx.helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in feeds.items()}
    graph = onnx.helper.make_graph(
        [node],
        "lstm",
        [onnx.helper.make_tensor_value_info(name, types[name], array.shape) for name, array in feeds.items()],
        [onnx.helper.make_tensor_value_info(name, types["X"], None) for name in ("Y", "Y_h", "Y_c")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 14)], ir_version=8)
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    y, h_n, c_n = session.run(None, feeds)
    return named(np.concatenate(np.moveaxis(y, 1, 0), axis=-1), (h_n, c_n))


@settings(max_examples=100)
@given(problems(**sizes, num_layers=1, dtype="float32"), st.booleans())
def test_onnx_runtime_agrees(problem, sort_lengths):
    lstm, batch = problem.lstm(), positive_lengths(problem.batch())
    if batch.lengths is not None and sort_lengths:
        batch = batch._replace(lengths=np.sort(batch.lengths)[::-1].copy())
    assert_close(called(lstm, batch), onnx_outputs(problem, lstm.state_dict(), batch), STATES["float32"])
