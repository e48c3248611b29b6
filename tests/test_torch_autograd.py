"""`clstm.torch.LSTM` in PyTorch's graphs: what is recorded, computed, kept and freed; hooks, checkpoints, autocast."""

import gc

import numpy as np
import pytest
from torch_builders import ZEROS, pair, tensors, torch

import clstm.torch


def test_nothing_is_recorded_without_need(monkeypatch):
    ours = clstm.torch.LSTM(3, 4)
    tapes, forward = [], clstm.torch._core.forward

    def spy(*arguments):
        tapes.append(forward(*arguments))
        return tapes[-1]

    monkeypatch.setattr(clstm.torch._core, "forward", spy)
    x = torch.ones(5, 2, 3)
    with torch.no_grad():
        assert ours(x)[0].grad_fn is None
    with torch.inference_mode():
        assert ours(x)[0].is_inference()
    ours.requires_grad_(False)
    assert not ours(x)[0].requires_grad
    assert tapes == [None, None, None]
    assert ours(x.requires_grad_())[0].requires_grad
    assert tapes[-1] is not None


def test_only_wanted_gradients_are_computed(monkeypatch):
    theirs, ours = pair(3, 4)
    computed, backward = [], clstm.torch._core.backward

    def spy(tape, dy, dh_n, dc_n, *outputs):
        computed[:] = [array is not None for array in outputs]
        backward(tape, dy, dh_n, dc_n, *outputs)

    monkeypatch.setattr(clstm.torch._core, "backward", spy)
    x, h_0, c_0 = tensors(np.ones((5, 2, 3), np.float32), *np.ones((2, 1, 2, 4), np.float32))
    weights = list(ours.parameters())
    for inputs in [(x,), (h_0,), (c_0, x), (weights[0],), weights, (x, h_0, c_0, *weights)]:
        for tensor in (x, h_0, c_0, *weights):
            tensor.requires_grad_(any(tensor is wanted for wanted in inputs))
        expected = dict(zip(weights, theirs.parameters(), strict=True))
        found = torch.autograd.grad(ours(x, (h_0, c_0))[0].sum(), inputs)
        wanted = [any(tensor is one for one in inputs) for tensor in (x, h_0, c_0)]
        assert computed == [*wanted, any(tensor is one for one in inputs for tensor in weights)]
        inputs = [expected.get(tensor, tensor) for tensor in inputs]
        torch.testing.assert_close(found, torch.autograd.grad(theirs(x, (h_0, c_0))[0].sum(), inputs))


def test_gradients_of_one_output_alone():
    for output in (lambda y, s: y[-1].sum(), lambda y, s: s[0].sum(), lambda y, s: s[1].sum()):
        grads = [
            torch.autograd.grad(output(*module(torch.ones(5, 2, 3))), list(module.parameters()))
            for module in pair(3, 4, 2)
        ]
        torch.testing.assert_close(*grads)


def test_gradients_accumulate_and_the_graph_is_kept_on_request():
    ours = clstm.torch.LSTM(3, 4)
    loss = ours(torch.ones(5, 2, 3))[0].sum()
    loss.backward(retain_graph=True)
    once = [parameter.grad.clone() for parameter in ours.parameters()]
    loss.backward()
    for parameter, grad in zip(ours.parameters(), once, strict=True):
        assert torch.equal(parameter.grad, 2 * grad)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()


def test_a_second_derivative_is_refused():
    ours = clstm.torch.LSTM(3, 4)
    x = torch.ones(5, 2, 3, requires_grad=True)
    y, _ = ours(x)
    (dx,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="clstm.torch.LSTM has no second derivative; use torch.nn.LSTM"):
        (y.mean() + dx.square().sum()).backward()


@pytest.mark.parametrize("frozen", [False, True])
def test_a_forward_mode_derivative_is_refused(frozen):
    """Where nothing requires a gradient too: the tangent would be lost."""
    ours = clstm.torch.LSTM(3, 4).requires_grad_(not frozen)
    with torch.autograd.forward_ad.dual_level():
        x = torch.autograd.forward_ad.make_dual(ZEROS, torch.ones_like(ZEROS))
        with pytest.raises(NotImplementedError, match="input has a tangent, but clstm.torch.LSTM has no forward-mode"):
            ours(x)


def test_hooks_see_what_they_see_in_pytorch():
    seen = []
    for module in pair(3, 4):
        calls = {}

        def see(name, tensors, calls=calls):
            calls[name] = [tensor.detach().clone() for tensor in tensors if tensor is not None]

        module.register_forward_pre_hook(lambda _, inputs, see=see: see("before", inputs))
        module.register_forward_hook(lambda _, inputs, outputs, see=see: see("after", [outputs[0], *outputs[1]]))
        module.register_full_backward_hook(lambda _, dx, dy, see=see: see("backward", [*dx, *dy]))
        module.weight_hh_l0.register_hook(lambda grad, see=see: (see("weight", [grad]), 2 * grad)[1])
        module.bias_ih_l0.register_post_accumulate_grad_hook(lambda bias, see=see: see("accumulated", [bias.grad]))
        module(torch.linspace(-1, 1, 30).reshape(5, 2, 3).requires_grad_())[0].square().sum().backward()
        see("at last", [parameter.grad for parameter in module.parameters()])
        seen.append(calls)
    torch.testing.assert_close(seen[1], seen[0], rtol=2e-5, atol=2e-6)


def test_tapes_are_freed_with_the_graph():
    """Backward frees the recording while the loss still lives, and the next forward pass records in its place."""
    ours = clstm.torch.LSTM(3, 8)
    x = torch.ones(50, 4, 3)
    address = set()
    for _ in range(5):
        y, _ = ours(x)
        address.add(y.grad_fn.saved_tensors[0].data_ptr())
        y.sum().backward()
    assert len(address) == 1
    kept, _ = ours(x)
    expected = torch.autograd.grad(kept.square().sum(), ours.weight_ih_l0, retain_graph=True)
    ours(x * 2)[0].sum().backward()  # a new recording must not lie where the kept one is
    assert torch.equal(*expected, *torch.autograd.grad(kept.square().sum(), ours.weight_ih_l0))


def test_a_module_is_freed_while_its_graph_lives():
    ours = clstm.torch.LSTM(3, 4)
    x = torch.ones(5, 2, 3, requires_grad=True)
    y, _ = ours(x)
    del ours
    gc.collect()
    y.sum().backward()
    assert x.grad.any()


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing(use_reentrant):
    from torch.utils.checkpoint import checkpoint

    ours = clstm.torch.LSTM(3, 8, 2, dropout=0.5)
    x = torch.randn(6, 2, 3, requires_grad=True)
    grads = []
    for run in (lambda: ours(x)[0], lambda: checkpoint(lambda x: ours(x)[0], x, use_reentrant=use_reentrant)):
        torch.manual_seed(5)
        ours.zero_grad()
        run().square().sum().backward()
        grads.append([parameter.grad.clone() for parameter in ours.parameters()])
    assert all(map(torch.equal, *grads))


def test_saved_tensors_may_be_moved_away():
    ours = clstm.torch.LSTM(3, 4)
    x = torch.ones(5, 2, 3)
    expected = torch.autograd.grad(ours(x)[0].sum(), list(ours.parameters()))
    shift = torch.empty(1 << 20, dtype=torch.uint8)

    def pack(tensor):
        """A copy at an odd address."""
        return shift[1 : 1 + tensor.numel()].copy_(tensor)

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y, _ = ours(x)
    assert all(map(torch.equal, torch.autograd.grad(y.sum(), list(ours.parameters())), expected))


def test_under_autocast_computing_stays_in_the_dtype_of_the_parameters():
    theirs, ours = pair(3, 4)
    x = torch.ones(5, 2, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, _ = ours(x.bfloat16(), [state.bfloat16() for state in torch.zeros(2, 1, 2, 4)])
    torch.testing.assert_close(y, theirs(x)[0])
    y.sum().backward()
