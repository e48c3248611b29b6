"""`clstm.torch.LSTM` as a module: attributes, weights that change, copies, dtypes, threads and processes."""

import copy
import io
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest
from torch_builders import pair, torch

import clstm.torch


@pytest.mark.parametrize("options", [{}, {"num_layers": 3, "bias": False, "bidirectional": True, "batch_first": True}])
def test_constructor_attributes_and_state_dict(options):
    theirs, ours = pair(3, 4, **options)
    assert isinstance(ours, torch.nn.LSTM) and repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    torch.testing.assert_close(dict(ours.state_dict()), dict(theirs.state_dict()), rtol=0, atol=0)
    for name in "input_size hidden_size num_layers bias batch_first dropout bidirectional proj_size mode".split():
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.all_weights[0][0] is ours.weight_ih_l0
    assert ours.flatten_parameters() is None
    ours.load_state_dict(pair(3, 4, seed=9, **options)[0].state_dict(), strict=True)
    with pytest.raises(RuntimeError, match="size mismatch for weight_ih_l0"):
        ours.load_state_dict(torch.nn.LSTM(5, 4, **options).state_dict())


def duplicates():
    def saved(module):
        file = io.BytesIO()
        torch.save(module, file)
        file.seek(0)
        return torch.load(file, weights_only=False)

    return [copy.copy, copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module)), saved]


@pytest.mark.parametrize("called_before", [False, True])
@pytest.mark.parametrize("duplicate", duplicates())
def test_copies(duplicate, called_before):
    ours = clstm.torch.LSTM(3, 4, 2)
    x = torch.ones(5, 2, 3)
    if called_before:
        ours(x)
    copied = duplicate(ours)
    assert type(copied) is clstm.torch.LSTM
    assert torch.equal(copied(x)[0], ours(x)[0])
    if duplicate is not copy.copy:
        expected = ours(x)[0].detach()
        with torch.no_grad():
            copied.weight_hh_l0.zero_()
        assert torch.equal(ours(x)[0], expected) and not torch.equal(copied(x)[0], expected)


def test_pickles_hold_the_weights_once():
    ours = clstm.torch.LSTM(64, 64)
    before = len(pickle.dumps(ours))
    ours(torch.ones(1, 64))
    assert len(pickle.dumps(ours)) == before


def test_the_dtype_may_change():
    theirs, ours = pair(3, 4)
    x = torch.ones(5, 2, 3)
    for dtype in (torch.float64, torch.float32):
        for module in (theirs, ours):
            module.to(dtype)
        torch.testing.assert_close(ours(x.to(dtype)), theirs(x.to(dtype)))


# ---- weights ----


def changes():
    def in_place(module):
        with torch.no_grad():
            module.weight_hh_l0.mul_(0.5)

    def by_data(module):  # which the version of a tensor does not tell
        module.weight_ih_l0.data.mul_(0.5)

    def by_numpy(module):
        module.bias_ih_l0.detach().numpy()[...] = 0.25

    def new_data(module):
        module.weight_ih_l0.data = module.weight_ih_l0.data * 0.5

    def new_parameter(module):
        module.weight_hh_l0 = torch.nn.Parameter(torch.full((16, 4), 0.25).t().contiguous().t())

    def loaded(module):
        module.load_state_dict({name: tensor * 0.5 for name, tensor in module.state_dict().items()})

    def swapped(module):
        module.bias_hh_l0.data, module.bias_ih_l0.data = module.bias_ih_l0.data, module.bias_hh_l0.data * 3

    return [in_place, by_data, by_numpy, new_data, new_parameter, loaded, swapped]


@pytest.mark.parametrize("change", changes())
def test_the_next_call_uses_changed_weights(change):
    theirs, ours = pair(3, 4)
    x = torch.randn(5, 2, 3)
    before, _ = ours(x)
    for module in (theirs, ours):
        change(module)
    torch.testing.assert_close(ours(x)[0], theirs(x)[0])
    assert not torch.allclose(ours(x)[0], before)


def test_weights_may_change_between_forward_and_backward():
    ours = clstm.torch.LSTM(3, 4)
    x = torch.randn(5, 2, 3)
    expected = torch.autograd.grad(ours(x)[0].square().sum(), list(ours.parameters()))
    loss = ours(x)[0].square().sum()
    with torch.no_grad():
        ours.weight_hh_l0.zero_()
        ours(x)
    assert all(map(torch.equal, torch.autograd.grad(loss, list(ours.parameters())), expected))


def test_the_weights_of_the_call_may_be_any_tensors():
    """Weight normalisation computes them; functional_call passes them."""
    theirs, ours = (torch.nn.utils.parametrizations.weight_norm(module, "weight_hh_l0") for module in pair(3, 4))
    x, grads = torch.randn(5, 2, 3), []
    for module in (theirs, ours):
        module(x)[0].sum().backward()
        grads.append({name: parameter.grad for name, parameter in module.named_parameters()})
    torch.testing.assert_close(*grads)
    for wrong in (torch.zeros(16, 3), torch.zeros(16, 4, dtype=torch.float64)):
        with pytest.raises(ValueError, match=r"parameter 1 has shape .* \(16, 4\) and float32 are expected"):
            torch.func.functional_call(pair(3, 4)[1], {"weight_hh_l0": wrong}, (x,))


# ---- threads and processes ----


def test_threads_may_share_a_module():
    ours = clstm.torch.LSTM(8, 16, 2)
    xs = [torch.randn(20, 3, 8) for _ in range(8)]
    with torch.no_grad():
        expected = [ours(x)[0] for x in xs]
    found = [None] * len(xs)

    def run(i):
        with torch.no_grad():
            for _ in range(20):
                found[i] = ours(xs[i])[0]

    threads = [threading.Thread(target=run, args=[i]) for i in range(len(xs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(map(torch.equal, found, expected))


WORKER = """
import os
import sys
import numpy as np
import torch
import clstm.torch

rank, path = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
torch.distributed.init_process_group("gloo", init_method=f"file://{path}/store", rank=rank, world_size=2)
weights = {}
for kind in (torch.nn.LSTM, clstm.torch.LSTM):
    torch.manual_seed(rank)  # different at first: the wrapper makes them equal
    model = torch.nn.parallel.DistributedDataParallel(kind(3, 8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for step in range(4):
        x = torch.sin(torch.arange(5 * 2 * 3.0).reshape(5, 2, 3) + 10 * step + rank)
        optimizer.zero_grad()
        model(x)[0].square().mean().backward()
        optimizer.step()
    weights |= {f"{kind.__module__}.{name}": p.detach().numpy() for name, p in model.module.named_parameters()}
np.savez(f"{path}/{rank}.npz", **weights)
torch.distributed.destroy_process_group()
os._exit(0)  # gloo may leave a thread that runs on, and that aborts the process at an orderly exit
"""


@pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()), reason="no gloo in this PyTorch"
)
def test_two_processes_train_one_model(tmp_path):
    """DistributedDataParallel ends with the weights that it ends with around torch.nn.LSTM, the same on both ranks."""
    workers = [subprocess.Popen([sys.executable, "-c", WORKER, str(rank), str(tmp_path)]) for rank in range(2)]
    assert [worker.wait(300) for worker in workers] == [0, 0]
    first, second = (dict(np.load(tmp_path / f"{rank}.npz")) for rank in range(2))
    for name in (name.partition("clstm.torch.")[2] for name in first if name.startswith("clstm.torch.")):
        ours = first["clstm.torch." + name]
        assert ours.tobytes() == second["clstm.torch." + name].tobytes()
        np.testing.assert_allclose(ours, first["torch.nn.modules.rnn." + name], rtol=0, atol=1e-6)
