"""`clstm.torch.LSTM` gives the outputs and gradients of `torch.nn.LSTM`, compiled, in training and in all layouts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import problems
from torch_builders import pair, rnn, tensors, torch

import clstm.torch

FORWARD, GRADIENTS = {"float32": 2e-6, "float64": 1e-13}, {"float32": 2e-5, "float64": 1e-12}


def pair_of(problem, **options):
    dtype = getattr(torch, problem.dtype)
    sizes = (problem.input_size, problem.hidden_size, problem.num_layers)
    options |= {"bias": problem.bias, "bidirectional": problem.bidirectional, "dtype": dtype}
    return pair(*sizes, **options, **problem.variant)


def gradients(module, batch, packed, batch_first):
    """Outputs and all gradients of a loss that sees y, h_n and c_n."""
    x, h_0, c_0, dy, dh_n, dc_n = tensors(batch.x, *(batch.state or batch.dstate), batch.dy, *batch.dstate)
    module.zero_grad()
    given = x.transpose(0, 1) if batch_first else x
    if packed:
        lengths = torch.from_numpy(np.maximum(batch.lengths, 1))
        given = rnn.pack_padded_sequence(given, lengths, batch_first, enforce_sorted=False)
    y, (h_n, c_n) = module(given, (h_0, c_0) if batch.state else None)
    if packed:
        y, _ = rnn.pad_packed_sequence(y, batch_first, total_length=len(batch.x))
    y = y.transpose(0, 1) if batch_first else y
    ((y * dy).sum() + (h_n * dh_n).sum() + (c_n * dc_n).sum()).backward()
    found = {"y": y, "h_n": h_n, "c_n": c_n, "dx": x.grad}
    found |= {"dh_0": h_0.grad, "dc_0": c_0.grad} if batch.state else {}
    found |= {name: parameter.grad for name, parameter in module.named_parameters()}
    return {name: tensor.detach().numpy() for name, tensor in found.items()}


def assert_close(found, expected, dtype):
    assert found.keys() == expected.keys()
    for name, array in found.items():
        assert array.dtype == expected[name].dtype
        tolerance = FORWARD[dtype] if name in ("y", "h_n", "c_n") else GRADIENTS[dtype]
        np.testing.assert_allclose(array, expected[name], rtol=tolerance, atol=tolerance, err_msg=name)


@settings(max_examples=60)
@given(
    problems(sizes=(1, 3, 7, 13, 33), batches=(1, 2, 5, 17), with_lengths=True),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_outputs_and_gradients_are_those_of_pytorch(problem, projected, packed, batch_first):
    if projected and problem.hidden_size > 1:
        problem = problem._replace(variant={"proj_size": problem.hidden_size // 2})
    theirs, ours = pair_of(problem, batch_first=batch_first)
    batch = problem.batch()
    found, expected = (gradients(module, batch, packed, batch_first) for module in (ours, theirs))
    assert_close(found, expected, problem.dtype)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("with_state", [False, True])
def test_one_sequence_without_batch_axis(with_state, batch_first):
    theirs, ours = pair(3, 4, 2, bidirectional=True, batch_first=batch_first)
    results = []
    for module in (theirs, ours):
        x, h_0, c_0 = tensors(*(np.full(shape, 0.5, np.float32) for shape in [(5, 3), (4, 4), (4, 4)]))
        y, (h_n, c_n) = module(x, (h_0, c_0) if with_state else None)
        (y.sum() + h_n.sum() + c_n.sum()).backward()
        results.append([y, h_n, c_n, x.grad])
    for found, expected in zip(*results, strict=True):
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected)


def test_an_empty_batch():
    theirs, ours = pair(3, 4, 2)
    x = torch.zeros(5, 0, 3, requires_grad=True)
    y, state = ours(x)
    torch.testing.assert_close((y, state), theirs(x))
    y.sum().backward()
    assert x.grad.shape == x.shape and not ours.weight_hh_l0.grad.any()


@pytest.mark.parametrize("make", [lambda x: x[:, ::2], lambda x: x.permute(2, 1, 0), lambda x: x[:1].expand(3, -1, -1)])
def test_tensors_of_any_layout(make):
    theirs, ours = pair(3, 4)
    x = make(torch.randn(3, 6, 3))
    state = torch.randn(1, 1, 4).expand(1, x.shape[1], 4), torch.randn(4, x.shape[1], 1).permute(2, 1, 0)
    torch.testing.assert_close(ours(x, state), theirs(x, state))


def test_gradients_of_any_layout():
    for loss in (lambda y: y.sum(), lambda y: y[..., 1].sum(), lambda y: (y.permute(2, 0, 1) * 2).square().sum()):
        grads = []
        for module in pair(3, 4):
            loss(module(torch.ones(5, 2, 3))[0]).backward()
            grads.append([parameter.grad for parameter in module.parameters()])
        torch.testing.assert_close(*grads)


def test_gradcheck():
    ours = clstm.torch.LSTM(2, 3, 2, bidirectional=True, dtype=torch.float64)
    x, h_0, c_0 = tensors(
        *(np.random.default_rng(0).standard_normal(shape) for shape in [(3, 2, 2), (4, 2, 3), (4, 2, 3)])
    )
    names = [name for name, _ in ours.named_parameters()]

    def call(x, h_0, c_0, *parameters):
        y, state = torch.func.functional_call(ours, dict(zip(names, parameters, strict=True)), (x, (h_0, c_0)))
        return y, *state

    assert torch.autograd.gradcheck(call, (x, h_0, c_0, *ours.parameters()))


def test_training_follows_the_same_loss_curve():
    """Forty steps of Adam on the same data: the losses agree to rounding, which grows with the steps."""
    curves = []
    for module in pair(4, 16, 2, batch_first=True):
        torch.manual_seed(1)
        head = torch.nn.Linear(16, 1)
        optimizer = torch.optim.Adam([*module.parameters(), *head.parameters()], lr=0.01)
        x = torch.randn(8, 12, 4)
        target, curve = x.cumsum(1).sum(2, keepdim=True).tanh(), []
        for _ in range(40):
            loss = torch.nn.functional.mse_loss(head(module(x)[0]), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            curve.append(loss.item())
        curves.append(curve)
    assert curves[0][-1] < curves[0][0] / 3
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-5)


@pytest.mark.parametrize("batch_first", [False, True])
def test_a_compiled_model_gives_the_same_results(batch_first):
    """PyTorch's compiler breaks its graphs at the layer. Several lengths: it compiles anew for the second."""
    found = []
    for kind, compiled in ((clstm.torch.LSTM, True), (torch.nn.LSTM, False)):
        torch.manual_seed(0)
        layer, head = kind(3, 8, 2, batch_first=batch_first), torch.nn.Linear(8, 1)

        def run(x, layer=layer, head=head):
            y, (_, c_n) = layer(2 * x)
            return head(y).relu().sum() + c_n.sum()

        model = torch.compile(run, backend="aot_eager") if compiled else run
        for time in (5, 6, 7):
            x = torch.linspace(-1, 1, time * 6).reshape(time, 2, 3).requires_grad_()
            model(x).backward()
            found.append([x.grad, *(parameter.grad.clone() for parameter in layer.parameters())])
    for ours, theirs in zip(found[:3], found[3:], strict=True):
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-5)
