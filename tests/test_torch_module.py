"""`clstm.torch.LSTM` in the place of `torch.nn.LSTM`: the same results, attributes, errors and ways to be used."""

import copy
import gc
import io
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import problems

torch = pytest.importorskip("torch")
torch.set_num_threads(1)

from torch.nn.utils import rnn  # noqa: E402

import clstm.torch  # noqa: E402

FORWARD, GRADIENTS = {"float32": 2e-6, "float64": 1e-13}, {"float32": 2e-5, "float64": 1e-12}


def pair(*sizes, seed=0, **options):
    """nn.LSTM and the module that stands in for it, with the same weights."""
    modules = []
    for kind in (torch.nn.LSTM, clstm.torch.LSTM):
        torch.manual_seed(seed)
        modules.append(kind(*sizes, **options))
    return modules


def pair_of(problem, **options):
    dtype = getattr(torch, problem.dtype)
    sizes = (problem.input_size, problem.hidden_size, problem.num_layers)
    options |= {"bias": problem.bias, "bidirectional": problem.bidirectional, "dtype": dtype}
    return pair(*sizes, **options, **problem.variant)


def tensors(*arrays):
    return [torch.from_numpy(np.array(array)).requires_grad_() for array in arrays]


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


# ---- results ----


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


# ---- autograd ----


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


# ---- dropout ----


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


# ---- the module ----


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


def test_an_empty_batch():
    theirs, ours = pair(3, 4, 2)
    x = torch.zeros(5, 0, 3, requires_grad=True)
    y, state = ours(x)
    torch.testing.assert_close((y, state), theirs(x))
    y.sum().backward()
    assert x.grad.shape == x.shape and not ours.weight_hh_l0.grad.any()


# ---- errors ----

ZEROS = torch.zeros(5, 2, 3)
PACKED = rnn.pack_sequence([torch.zeros(3, 3), torch.zeros(2, 3)])


@pytest.mark.parametrize(
    "arguments",
    [
        (torch.zeros(0, 2, 3),),
        (torch.zeros(5, 2, 4),),
        (torch.zeros(3),),
        (torch.zeros(1, 5, 2, 3),),
        (ZEROS.double(),),
        (ZEROS.to("meta"),),
        (ZEROS, (torch.zeros(1, 4), torch.zeros(1, 4))),
        (ZEROS, (torch.zeros(1, 3, 4), torch.zeros(1, 2, 4))),
        (ZEROS, (torch.zeros(1, 2, 4), torch.zeros(2, 2, 4))),
        (ZEROS, (torch.zeros(1, 2, 4, dtype=torch.float64), torch.zeros(1, 2, 4))),
        (ZEROS[:, 0], (torch.zeros(1, 1, 4), torch.zeros(1, 1, 4))),
        (PACKED, (torch.zeros(1, 3, 4), torch.zeros(1, 3, 4))),
        (PACKED, (torch.zeros(1, 2, 4), torch.zeros(1, 2, 5))),
        (rnn.PackedSequence(torch.zeros(5, 4), PACKED.batch_sizes),),
    ],
)
def test_what_pytorch_refuses_is_refused_with_the_same_kind_of_error(arguments):
    theirs, ours = pair(3, 4)
    with pytest.raises((ValueError, RuntimeError)) as expected:
        theirs(*arguments)
    with pytest.raises(expected.type) as found:
        ours(*arguments)
    if str(expected.value).startswith(("Expected", "For", "input", "LSTM", "RNN")):
        assert str(found.value) == str(expected.value)


def test_what_is_not_supported_is_refused_by_name():
    with pytest.raises(
        ValueError, match=r"input dtype \(torch.float64\) does not match weight dtype \(torch.float32\)"
    ):
        clstm.torch.LSTM(3, 4)(rnn.PackedSequence(torch.zeros(5, 3).double(), PACKED.batch_sizes))
    unsorted = rnn.pack_sequence([torch.zeros(2, 3), torch.zeros(3, 3)], enforce_sorted=False)
    with pytest.raises(RuntimeError, match=r"Expected hidden\[0\] size \(1, 2, 4\), got \[1, 3, 4\]"):
        clstm.torch.LSTM(3, 4)(unsorted, (torch.zeros(1, 3, 4), torch.zeros(1, 3, 4)))
    with pytest.raises(ValueError, match="dtype is torch.bfloat16, but torch.float32 or torch.float64 is expected"):
        clstm.torch.LSTM(3, 4).bfloat16()(ZEROS.bfloat16())
    with pytest.raises(RuntimeError, match="input is on meta, but clstm.torch.LSTM computes on the CPU"):
        clstm.torch.LSTM(3, 4)(ZEROS.to("meta"))
    with pytest.raises(RuntimeError, match="weight is on meta, but clstm.torch.LSTM computes on the CPU"):
        clstm.torch.LSTM(3, 4, device="meta")(ZEROS)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_tracing_is_refused():
    """A trace, and the ONNX file made of one, would hold the results of the example as constants."""
    model = torch.nn.Sequential(clstm.torch.LSTM(3, 4))
    with torch.no_grad(), pytest.raises(RuntimeError, match="cannot be traced; put torch.nn.LSTM in its place"):
        torch.jit.trace(model, ZEROS)
    with pytest.raises(RuntimeError, match="cannot be traced; put torch.nn.LSTM in its place"):
        torch.export.export(model, (ZEROS,), strict=False)


# ---- several processes ----

WORKER = """
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
