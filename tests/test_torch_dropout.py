"""Dropout between the layers of `clstm.torch.LSTM`, from PyTorch's random numbers."""

import numpy as np
import pytest
from torch_builders import pair, tensors, torch

import clstm.torch


def test_dropout_acts_between_layers_in_training_only():
    torch.manual_seed(0)
    theirs, ours = pair(3, 64, 2, dropout=0.5)
    x = torch.randn(5, 2, 3)
    torch.testing.assert_close(ours.eval()(x)[0], theirs.eval()(x)[0])
    y = ours(x)[0]
    y.sum().backward()
    assert ours.weight_ih_l1.grad.all()
    ours.train()
    dropped = ours(x)[0]
    assert not torch.equal(dropped, y) and not torch.equal(dropped, ours(x)[0])
    with torch.no_grad():  # as in torch.nn.LSTM
        assert not torch.equal(ours(x)[0], y)


def test_torchs_seed_reproduces_dropout():
    _, ours = pair(3, 64, 3, dropout=0.25)
    x = torch.randn(5, 2, 3)
    results = []
    for recorded in (True, True, False):
        torch.manual_seed(7)
        with torch.set_grad_enabled(recorded):
            results.append(torch.stack([ours(x)[0] for _ in range(3)]))
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])
    state = torch.get_rng_state()
    ours.eval()(x)
    assert torch.equal(torch.get_rng_state(), state)


def test_dropout_keeps_the_mean_and_may_change_between_calls():
    _, ours = pair(3, 4, 2, dropout=1.0)
    x = torch.ones(5, 2, 3)
    _, zeros = pair(4, 4)
    zeros.load_state_dict({name.replace("l1", "l0"): p for name, p in ours.state_dict().items() if "l1" in name})
    torch.testing.assert_close(ours(x)[0], zeros(torch.zeros(5, 2, 4))[0])
    ours.dropout = 0.0
    torch.testing.assert_close(ours(x)[0], ours.eval()(x)[0])
    wide = clstm.torch.LSTM(2, 400, 2, dropout=0.3).double()
    with torch.no_grad():
        wide.weight_ih_l1.fill_(1 / 400)  # every unit of layer 1 sees the mean of those of layer 0
        wide.weight_hh_l1.zero_(), wide.bias_ih_l1.zero_(), wide.bias_hh_l1.zero_(), wide.bias_ih_l0.fill_(2)
        x = torch.ones(1, 1, 2, dtype=torch.float64)
        assert wide(x)[0].mean().item() == pytest.approx(wide.eval()(x)[0].mean().item(), rel=0.1)


def test_gradients_go_through_the_masks():
    ours = clstm.torch.LSTM(2, 3, 3, dropout=0.5, dtype=torch.float64)

    def call(x):
        torch.manual_seed(3)
        return ours(x)[0]

    assert torch.autograd.gradcheck(call, tensors(np.random.default_rng(0).standard_normal((3, 2, 2))))
