"""SGD, Adam, AdamW and clip_grad_norm: PyTorch's steps, states that go on, and errors."""

import gc
import math
import weakref

import numpy as np
import pytest

import clstm

OPTIMIZERS = [
    ("SGD", {}),
    ("SGD", {"lr": 0.1, "momentum": 0.9}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1, "nesterov": True}),
    ("SGD", {"lr": 0.1, "weight_decay": 0.1}),
    ("Adam", {}),
    ("Adam", {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1}),
    ("AdamW", {}),
    ("AdamW", {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1}),
]
optimizers = pytest.mark.parametrize(("name", "arguments"), OPTIMIZERS)


def gradient_sequence(steps, dtype="float64"):
    rng = np.random.default_rng(7)
    shapes = {"weight": (3, 4), "bias": (3,)}
    return [{name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()} for _ in range(steps)]


@optimizers
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-13)])
def test_optimizers_follow_pytorch(name, arguments, dtype, tolerance):
    torch = pytest.importorskip("torch")
    linear = clstm.Linear(4, 3, dtype=dtype, seed=0)
    theirs = {key: torch.nn.Parameter(torch.tensor(array.copy())) for key, array in linear.parameters().items()}
    optimizer = getattr(clstm, name)(linear, **arguments)
    their_optimizer = getattr(torch.optim, name)(theirs.values(), **arguments)
    for step, grads in enumerate(gradient_sequence(50, dtype)):
        optimizer.lr = their_optimizer.param_groups[0]["lr"] = optimizer.lr * 0.99
        optimizer.step(grads)
        for key, parameter in theirs.items():
            parameter.grad = torch.tensor(grads[key])
        their_optimizer.step()
        for key, array in linear.parameters().items():
            expected = theirs[key].detach().numpy()
            np.testing.assert_allclose(array, expected, rtol=tolerance, atol=tolerance, err_msg=f"{key}, step {step}")


@optimizers
def test_a_resumed_run_is_the_uninterrupted_one(name, arguments, tmp_path):
    make = getattr(clstm, name)
    whole = clstm.Linear(4, 3, seed=0)
    optimizer = make(whole, **arguments)
    sequence = gradient_sequence(20, "float32")
    schedule = clstm.cosine(0.01, 20, 5)
    path = tmp_path / "run.safetensors"
    for step, grads in enumerate(sequence):
        if step == 10:
            whole.save(path, extra=optimizer.state_dict(), metadata={"step": str(step)})
        optimizer.lr = schedule(step)
        optimizer.step(grads)

    resumed = clstm.Linear.load(path)
    extra, metadata = clstm.read_extra(path)
    second = make(resumed, **{**arguments, "lr": 123.0})
    second.load_state_dict(extra)
    assert second.lr == schedule(9)
    for step in range(int(metadata["step"]), 20):
        second.lr = schedule(step)
        second.step(sequence[step])
    for key, array in resumed.parameters().items():
        assert array.tobytes() == whole.parameters()[key].tobytes()
    expected = optimizer.state_dict()
    assert all(array.tobytes() == expected[key].tobytes() for key, array in second.state_dict().items())


@optimizers
def test_an_optimizer_copies_what_it_is_given(name, arguments):
    make = getattr(clstm, name)
    first, second = gradient_sequence(2)
    kept = {key: grad.copy() for key, grad in first.items()}
    linear = clstm.Linear(4, 3, dtype="float64", seed=0)
    optimizer = make(linear, **arguments)
    optimizer.step(first)
    assert all(np.array_equal(first[key], kept[key]) for key in kept)
    state = optimizer.state_dict()
    twin = make(clstm.Linear(4, 3, dtype="float64"), **arguments)
    twin.load_state_dict(state)
    saved = {key: array.copy() for key, array in state.items()}
    optimizer.step(second)
    twin.step(second)
    assert all(np.array_equal(state[key], saved[key]) for key in saved)


@optimizers
@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (7, 2), (1, 9), (3, 2, 2)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_pieces_of_a_parameter_are_updated_as_the_whole_is(monkeypatch, name, arguments, shape, order):
    rng = np.random.default_rng(3)
    whole = np.array(rng.standard_normal(shape), "float32", order=order)
    grads = [rng.standard_normal(shape) for _ in range(3)]  # of another dtype and order than the parameter
    in_pieces = whole.copy(order="K")
    results = []
    for size, parameter in ((1000, whole), (4, in_pieces)):
        monkeypatch.setattr(clstm.optim, "PIECE", size)
        optimizer = getattr(clstm, name)({"w": parameter}, **arguments)
        for grad in grads:
            before = parameter.copy()
            optimizer.step({"w": grad})
            assert parameter.size == 0 or np.any(parameter != before)
        results.append([parameter.tobytes(), *(array.tobytes() for array in optimizer.state_dict().values())])
    assert results[0] == results[1]


@optimizers
def test_gradients_may_be_the_parameters(monkeypatch, name, arguments):
    """As those of a sum of squares, or of a product."""
    monkeypatch.setattr(clstm.optim, "PIECE", 4)
    results = []
    for copy in (False, True):
        rng = np.random.default_rng(3)
        arrays = {"a": rng.standard_normal((5, 5)), "b": rng.standard_normal((5, 5))}
        grads = {"a": arrays["a"].T, "b": arrays["a"]}
        optimizer = getattr(clstm, name)(arrays, **arguments)
        optimizer.step({key: grad.copy() for key, grad in grads.items()} if copy else grads)
        results.append([array.tobytes() for array in (*arrays.values(), *optimizer.state_dict().values())])
    assert results[0] == results[1]


def test_a_gradient_that_cannot_be_converted_changes_nothing():
    parameters = {"v": np.ones(3, np.float32), "w": np.ones(70000, np.float32)}
    grads = {"v": np.ones(3), "w": np.r_[np.ones(69999), 1e300]}
    optimizer = clstm.SGD(parameters, lr=0.1, momentum=0.9)
    with np.errstate(over="raise"), pytest.raises(FloatingPointError):
        optimizer.step(grads)
    assert all(np.all(array == 1) for array in parameters.values())
    assert optimizer.state_dict()["step"] == 0


def test_an_optimizer_updates_a_dict_of_arrays_and_ignores_other_gradients():
    linear = clstm.Linear(2, 1, seed=0)
    bias = linear.bias.copy()
    optimizer = clstm.SGD({"weight": linear.parameters()["weight"]}, lr=1.0)
    weight = linear.weight.copy()
    optimizer.step({"weight": np.ones((1, 2)), "bias": np.ones(1)})
    assert linear.weight.tolist() == (weight - 1).tolist()
    assert linear.bias.tolist() == bias.tolist()


def test_an_optimizer_holds_no_array_of_a_module_between_steps():
    """An LSTM packs its weights anew in each call while anyone holds one."""

    class Watched(clstm.Linear):
        views = ()

        def parameters(self):
            arrays = {name: array[:] for name, array in super().parameters().items()}
            self.views = [weakref.ref(array) for array in arrays.values()]
            return arrays

    model = Watched(4, 3)
    optimizer = clstm.Adam(model)
    for grads in gradient_sequence(2):
        optimizer.step(grads)
        gc.collect()
        assert [view() for view in model.views] == [None, None]


@optimizers
def test_a_wrong_gradient_changes_nothing(name, arguments):
    linear = clstm.Linear(4, 3, seed=0)
    optimizer = getattr(clstm, name)(linear, **arguments)
    before, state = linear.state_dict(), optimizer.state_dict()
    for grads, error, message in (
        ({"weight": np.ones((3, 4))}, ValueError, "missing 'bias'"),
        ({"weight": np.ones((3, 4)), "bias": np.ones(4)}, ValueError, r"'bias' has shape \(4,\), but \(3,\)"),
        ({"weight": np.ones((3, 4)), "bias": np.ones(3, complex)}, TypeError, "'bias' has dtype complex128"),
    ):
        with pytest.raises(error, match=message):
            optimizer.step(grads)
    assert all(array.tobytes() == before[key].tobytes() for key, array in linear.parameters().items())
    assert all(array.tobytes() == state[key].tobytes() for key, array in optimizer.state_dict().items())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"exp_avg.weight": None}, ValueError, "missing 'exp_avg.weight'"),
        ({"exp_avg.gain": np.ones(1)}, ValueError, "unexpected 'exp_avg.gain'"),
        ({"exp_avg_sq.bias": np.ones(4)}, ValueError, r"'exp_avg_sq.bias' has shape \(4,\), but \(3,\)"),
        ({"lr": np.array(-1.0)}, ValueError, "lr is -1.0"),
        ({"lr": np.array(np.nan)}, ValueError, "lr is nan"),
        ({"step": np.array(-1)}, ValueError, "step is"),
        ({"exp_avg.bias": np.ones(3, complex)}, TypeError, "'exp_avg.bias' has dtype complex128"),
    ],
)
def test_a_wrong_optimizer_state_changes_nothing(change, error, message):
    optimizer = clstm.Adam(clstm.Linear(4, 3, seed=0))
    optimizer.step(gradient_sequence(1)[0])
    before = optimizer.state_dict()
    other = {key: array + array.dtype.type(1) for key, array in before.items()}
    bad = {key: array for key, array in {**other, **change}.items() if array is not None}
    with pytest.raises(error, match=message):
        optimizer.load_state_dict(bad)
    assert all(array.tobytes() == before[key].tobytes() for key, array in optimizer.state_dict().items())


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda p: clstm.SGD(p, lr=-1.0), ValueError, "lr is -1.0"),
        (lambda p: clstm.SGD(p, lr=math.nan), ValueError, "lr is nan"),
        (lambda p: clstm.SGD(p, momentum=-0.1), ValueError, "momentum is -0.1"),
        (lambda p: clstm.SGD(p, nesterov=True), ValueError, "nesterov needs a momentum"),
        (lambda p: clstm.SGD(p, weight_decay=-1), ValueError, "weight_decay is -1"),
        (lambda p: clstm.Adam(p, betas=(0.9, 1.0)), ValueError, r"betas is \(0.9, 1.0\)"),
        (lambda p: clstm.Adam(p, betas=(-0.1, 0.9)), ValueError, r"betas is \(-0.1, 0.9\)"),
        (lambda p: clstm.Adam(p, eps=-1e-8), ValueError, "eps is -1e-08"),
        (lambda p: clstm.AdamW(p, weight_decay=math.inf), ValueError, "weight_decay is inf"),
        (lambda p: clstm.Adam(list(p.parameters().values())), TypeError, "parameters is a list"),
        (lambda p: clstm.Adam({"a": [1.0]}), TypeError, "parameter 'a' is not a writable array of floats"),
        (lambda p: clstm.Adam({"a": np.ones(2, int)}), TypeError, "parameter 'a' is not a writable array of floats"),
    ],
)
def test_optimizers_refuse_wrong_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make(clstm.Linear(2, 1))


# ---- clip_grad_norm ----


@pytest.mark.parametrize("max_norm", [0.5, 100.0])
def test_clip_grad_norm_agrees_with_pytorch(max_norm):
    torch = pytest.importorskip("torch")
    (grads,) = gradient_sequence(1)
    theirs = [torch.nn.Parameter(torch.zeros(grad.shape, dtype=torch.float64)) for grad in grads.values()]
    for parameter, grad in zip(theirs, grads.values(), strict=True):
        parameter.grad = torch.tensor(grad)
    expected = torch.nn.utils.clip_grad_norm_(theirs, max_norm)
    assert clstm.clip_grad_norm(grads, max_norm) == pytest.approx(expected.item(), rel=1e-14)
    for parameter, grad in zip(theirs, grads.values(), strict=True):
        np.testing.assert_allclose(grad, parameter.grad.numpy(), rtol=1e-14)


def test_clip_grad_norm_counts_all_pieces(monkeypatch):
    grads = {"a": np.ones((7, 3)), "b": np.ones((2, 5)).T, "c": np.array(2.0)}
    monkeypatch.setattr(clstm.optim, "PIECE", 4)
    assert clstm.clip_grad_norm(grads, 100.0) == pytest.approx(math.sqrt(21 + 10 + 4))


def test_clip_grad_norm():
    small = {"a": np.array([0.3, 0.4])}
    assert clstm.clip_grad_norm(small, 1.0) == pytest.approx(0.5)
    assert small["a"].tolist() == [0.3, 0.4]
    large = {"a": np.full(4, 1e30, np.float32), "b": np.zeros((2, 2))}
    assert clstm.clip_grad_norm(large, 1.0) == pytest.approx(2e30)
    np.testing.assert_allclose(large["a"], 0.5)
    assert clstm.clip_grad_norm({"a": np.zeros(2)}, 1.0) == 0.0
    assert math.isnan(clstm.clip_grad_norm({"a": np.array([np.nan])}, 1.0))
    for bad in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="max_norm is"):
            clstm.clip_grad_norm(small, bad)
