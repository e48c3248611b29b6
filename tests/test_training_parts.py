"""Embedding, Linear, losses, optimizers, schedules and Sequential: values, gradients and errors."""

import gc
import math
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import clstm

EPS = 1e-5
seeds = st.integers(0, 2**32 - 1)
leading = st.lists(st.integers(0, 4), max_size=3).map(tuple)


def numeric_gradient(loss, array):
    """Central differences of loss() with respect to each value of a float64 array, which loss() reads."""
    gradient = np.empty_like(array)
    for index in np.ndindex(array.shape):
        value = array[index]
        array[index] = value + EPS
        above = loss()
        array[index] = value - EPS
        below = loss()
        array[index] = value
        gradient[index] = (above - below) / (2 * EPS)
    return gradient


def assert_gradient(gradient, loss, array):
    """1e-7 relative to the largest entry, beside the rounding of the differences themselves."""
    assert gradient.shape == array.shape and gradient.dtype == array.dtype
    expected = numeric_gradient(loss, array)
    scale = max(np.abs(expected).max(initial=0.0), abs(loss()), 1e-3)
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-7 * scale)


def randoms(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape) for shape in shapes]


# ---- Linear


@given(leading, st.integers(1, 5), st.integers(1, 5), st.booleans(), seeds)
def test_linear_gradients(shape, in_features, out_features, bias, seed):
    linear = clstm.Linear(in_features, out_features, bias, dtype="float64", seed=seed)
    x, dy = randoms(seed, (*shape, in_features), (*shape, out_features))
    y, tape = linear.forward(x)
    dx, grads = linear.backward(tape, dy)
    parameters = linear.parameters()
    expected = np.einsum("...i,oi->...o", x, parameters["weight"]) + parameters.get("bias", 0.0)
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(linear(x), y)
    assert list(grads) == list(parameters)

    def loss():
        return float((linear(x) * dy).sum())

    assert_gradient(dx, loss, x)
    for name in grads:
        assert_gradient(grads[name], loss, parameters[name])


def test_linear_backward_is_of_the_forward_call_that_made_the_tape():
    linear = clstm.Linear(3, 2, dtype="float64", seed=0)
    x, other, dy = randoms(1, (4, 3), (4, 3), (4, 2))
    _, tape = linear.forward(x)
    dx, grads = linear.backward(tape, dy)
    linear.forward(other)
    linear.weight *= 2.0
    x *= 2.0
    again_dx, again = linear.backward(tape, dy)
    assert dx.tobytes() == again_dx.tobytes()
    assert all(grads[name].tobytes() == again[name].tobytes() for name in grads)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_linear_converts_real_types_and_layouts(dtype):
    linear = clstm.Linear(3, 2, dtype=dtype, seed=0)
    x = np.arange(12).reshape(4, 3)
    expected = linear(x.astype(dtype))
    assert expected.dtype == dtype
    for same in (x, x.tolist(), x.astype(">f8"), np.asfortranarray(x), x.astype("float16"), x[::-1][::-1]):
        y, tape = linear.forward(same)
        assert y.dtype == dtype and y.tobytes() == expected.tobytes()
        dx, grads = linear.backward(tape, np.broadcast_to(np.float64(1.0), (4, 2)))
        assert dx.dtype == grads["weight"].dtype == grads["bias"].dtype == dtype
        assert grads["bias"].tolist() == [4.0, 4.0]


def test_linear_starts_as_in_pytorch():
    linear = clstm.Linear(16, 1000, seed=3)
    for array in (linear.weight, linear.bias):
        assert 0.24 < np.abs(array).max() <= 0.25
        assert abs(array.mean()) < 0.02
    assert linear.weight.tobytes() == clstm.Linear(16, 1000, seed=3).weight.tobytes()
    assert linear.weight.tobytes() != clstm.Linear(16, 1000, seed=4).weight.tobytes()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0, 2), ValueError, "in_features is 0, but at least 1"),
        ((3, -2), ValueError, "out_features is -2, but at least 1"),
        ((3.0, 2), TypeError, "in_features is 3.0, but an integer"),
        ((True, 2), TypeError, "in_features is True, but an integer"),
        ((3, 2, 1), TypeError, "bias is 1, but True or False"),
    ],
)
def test_linear_refuses_wrong_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        clstm.Linear(*arguments)


@pytest.mark.parametrize("dtype", ["float16", "int32", "complex128", "nonsense", None, 3])
def test_layers_refuse_other_dtypes(dtype):
    for make in (clstm.Linear, clstm.Embedding):
        with pytest.raises(ValueError, match="but 'float32' or 'float64' is expected"):
            make(3, 2, dtype=dtype)


def test_linear_refuses_wrong_arrays():
    linear = clstm.Linear(3, 2)
    with pytest.raises(ValueError, match="x has 4 features, but in_features is 3"):
        linear(np.zeros((5, 4)))
    with pytest.raises(ValueError, match="x is a single number"):
        linear(1.0)
    for bad in (np.zeros(3, complex), np.zeros(3, object), ["a", "b", "c"]):
        with pytest.raises(TypeError, match="x has dtype"):
            linear(bad)
    _, tape = linear.forward(np.zeros((5, 3)))
    with pytest.raises(ValueError, match="dy has 3 features, but out_features is 2"):
        linear.backward(tape, np.zeros((5, 3)))
    with pytest.raises(ValueError, match=r"dy has shape \(4, 2\), but x of the forward call had \(5, 3\)"):
        linear.backward(tape, np.zeros((4, 2)))


def test_linear_keeps_nan_in_its_row():
    linear = clstm.Linear(3, 2, seed=0)
    x = np.ones((4, 3), np.float32)
    expected = linear(x)
    x[1, 2] = np.nan
    y = linear(x)
    assert np.isnan(y[1]).all()
    np.testing.assert_allclose(y[[0, 2, 3]], expected[[0, 2, 3]], rtol=1e-6)


# ---- Embedding


@given(leading, st.integers(1, 6), st.integers(1, 4), seeds)
def test_embedding_gradients(shape, num_embeddings, embedding_dim, seed):
    embedding = clstm.Embedding(num_embeddings, embedding_dim, dtype="float64", seed=seed)
    indices = np.random.default_rng(seed).integers(0, num_embeddings, shape)
    (dy,) = randoms(seed, (*shape, embedding_dim))
    y, tape = embedding.forward(indices)
    assert y.shape == (*shape, embedding_dim)
    for position in np.ndindex(shape):
        assert y[position].tolist() == embedding.weight[indices[position]].tolist()
    dx, grads = embedding.backward(tape, dy)
    assert dx is None
    assert_gradient(grads["weight"], lambda: float((embedding(indices) * dy).sum()), embedding.weight)


def test_embedding_sums_many_rows_exactly():
    embedding = clstm.Embedding(3, 2)
    _, tape = embedding.forward(np.full(1_000_000, 1))
    _, grads = embedding.backward(tape, np.broadcast_to(np.float32(0.1), (1_000_000, 2)))
    expected = np.float32(1_000_000 * float(np.float32(0.1)))
    np.testing.assert_allclose(grads["weight"], [[0, 0], [expected, expected], [0, 0]], rtol=1e-7)


def test_embedding_tape_is_a_copy():
    embedding = clstm.Embedding(3, 1, seed=0)
    indices = np.array([1, 1])
    y, tape = embedding.forward(indices)
    y += 1.0
    indices[:] = 2
    _, grads = embedding.backward(tape, np.ones((2, 1)))
    assert grads["weight"].tolist() == [[0.0], [2.0], [0.0]]
    assert embedding([1]).tolist() == embedding.weight[1:2].tolist()


def test_embedding_starts_normal():
    weight = clstm.Embedding(100, 100, seed=3).weight
    assert abs(weight.mean()) < 0.05 and abs(weight.std() - 1.0) < 0.05
    assert weight.tobytes() == clstm.Embedding(100, 100, seed=3).weight.tobytes()


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint64, np.int64, ">i2"])
def test_embedding_takes_every_integer_type(dtype):
    embedding = clstm.Embedding(300, 2, seed=0)
    indices = np.array([[0, 1], [100, 2]], dtype)
    assert embedding(indices).tolist() == embedding.weight[indices.astype(int)].tolist()


@pytest.mark.parametrize(
    ("indices", "error", "message"),
    [
        ([[0, 1], [2, 5]], ValueError, r"indices has the value 5 at position \(1, 1\), but num_embeddings is 5"),
        ([0, -1], ValueError, r"indices has the value -1 at position \(1,\), but num_embeddings is 5"),
        (7, ValueError, "indices has the value 7, but num_embeddings is 5"),
        (np.array([2**63], np.uint64), ValueError, "indices has the value 9223372036854775808"),
        ([1.5, 2.0], TypeError, r"indices has dtype float64 \(the first value is .*1.5.*\), but integers"),
        ([True], TypeError, "indices has dtype bool"),
        ([1j], TypeError, "indices has dtype complex128"),
        (["a"], TypeError, "indices has dtype <U1"),
        ([None], TypeError, "indices has dtype object"),
    ],
)
def test_embedding_names_the_wrong_index(indices, error, message):
    with pytest.raises(error, match=message):
        clstm.Embedding(5, 2)(indices)


def test_embedding_refuses_a_wrong_gradient():
    embedding = clstm.Embedding(5, 2)
    _, tape = embedding.forward([1, 2, 3])
    with pytest.raises(ValueError, match=r"dy has shape \(2, 2\), but \(3, 2\) is expected"):
        embedding.backward(tape, np.zeros((2, 2)))


# ---- losses


@given(leading, st.integers(1, 6), st.booleans(), seeds)
def test_cross_entropy_gradient(shape, classes, ignore, seed):
    (logits,) = randoms(seed, (*shape, classes))
    targets = np.random.default_rng(seed).integers(-1 if ignore else 0, classes, shape)
    ignore_index = -1 if ignore else None
    loss, dlogits = clstm.cross_entropy(logits, targets, ignore_index)

    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    terms = [-math.log(probabilities[(*i, targets[i])]) for i in np.ndindex(shape) if targets[i] >= 0]
    assert loss == pytest.approx(sum(terms) / max(len(terms), 1), rel=1e-12, abs=1e-12)
    assert_gradient(dlogits, lambda: clstm.cross_entropy(logits, targets, ignore_index)[0], logits)


@given(leading, seeds)
def test_mse_gradient(shape, seed):
    prediction, target = randoms(seed, shape, shape)
    loss, dprediction = clstm.mse_loss(prediction, target)
    assert loss == pytest.approx(((prediction - target) ** 2).sum() / max(prediction.size, 1), rel=1e-12)
    assert_gradient(dprediction, lambda: clstm.mse_loss(prediction, target)[0], prediction)


def test_cross_entropy_of_extreme_logits():
    with np.errstate(all="raise", under="ignore"):
        loss, dlogits = clstm.cross_entropy(np.array([[3e38, -3e38, 0.0]], np.float32) / 2, [0])
        assert loss == 0.0 and dlogits.tolist() == [[0.0, 0.0, 0.0]]
        loss, dlogits = clstm.cross_entropy([[0.0, 1e300]], [0])
        assert loss == 1e300 and dlogits.tolist() == [[-1.0, 1.0]]
        loss, dlogits = clstm.cross_entropy([[0.0, -np.inf, 0.0]], [0])
        assert loss == pytest.approx(math.log(2)) and dlogits.tolist() == [[-0.5, 0.0, 0.5]]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_cross_entropy_keeps_nan_in_its_row(bad):
    loss, dlogits = clstm.cross_entropy([[1.0, 2.0], [bad, 0.0], [0.0, 0.0]], [0, 1, 1])
    assert math.isnan(loss)
    assert np.isnan(dlogits).all(axis=1).tolist() == [False, True, False]


def test_losses_change_no_argument_and_keep_the_dtype():
    for dtype in (np.float32, np.float64):
        logits, target = np.ones((2, 3), dtype), np.zeros((2, 3), dtype)
        logits.flags.writeable = target.flags.writeable = False
        loss, dlogits = clstm.cross_entropy(logits, [0, 1])
        assert type(loss) is float and dlogits.dtype == dtype
        loss, dprediction = clstm.mse_loss(logits, target)
        assert type(loss) is float and dprediction.dtype == dtype
    assert clstm.cross_entropy([[1, 2]], [0])[1].dtype == np.float64
    assert clstm.mse_loss(np.float16([1.0]), [0])[1].dtype == np.float32


def test_losses_of_nothing_train_nothing():
    loss, dlogits = clstm.cross_entropy(np.ones((2, 3)), [9, 9], ignore_index=9)
    assert loss == 0.0 and not dlogits.any()
    assert clstm.cross_entropy(np.ones((0, 3)), np.zeros(0, int))[0] == 0.0
    assert clstm.mse_loss(np.ones((0, 3)), np.ones((0, 3)))[0] == 0.0


def test_losses_refuse_wrong_arguments():
    with pytest.raises(ValueError, match=r"targets has the value 3 at position \(1,\), but the number of classes is 3"):
        clstm.cross_entropy(np.zeros((2, 3)), [0, 3])
    with pytest.raises(ValueError, match="targets has the value -1"):
        clstm.cross_entropy(np.zeros((2, 3)), [0, -1], ignore_index=-100)
    with pytest.raises(ValueError, match=r"targets has shape \(3,\), but logits has \(2, 3\)"):
        clstm.cross_entropy(np.zeros((2, 3)), [0, 1, 2])
    with pytest.raises(TypeError, match="targets has dtype float64"):
        clstm.cross_entropy(np.zeros((2, 3)), [0.0, 1.0])
    with pytest.raises(TypeError, match="logits has dtype complex128"):
        clstm.cross_entropy(np.zeros((2, 3), complex), [0, 1])
    with pytest.raises(ValueError, match="at least one class"):
        clstm.cross_entropy(np.zeros((2, 0)), [0, 0])
    with pytest.raises(ValueError, match="at least one class"):
        clstm.cross_entropy(0.0, [])
    with pytest.raises(ValueError, match=r"target has shape \(2,\), but prediction has \(2, 1\)"):
        clstm.mse_loss(np.zeros((2, 1)), np.zeros(2))


# ---- beside PyTorch


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-6), ("float64", 1e-13)])
def test_layers_and_losses_agree_with_pytorch(dtype, tolerance):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    model = clstm.Sequential(clstm.Embedding(11, 6, dtype=dtype, seed=1), clstm.Linear(6, 11, dtype=dtype, seed=2))
    theirs = torch.nn.Sequential(torch.nn.Embedding(11, 6), torch.nn.Linear(6, 11)).to(getattr(torch, dtype))
    theirs.load_state_dict({name: torch.tensor(array) for name, array in model.state_dict().items()})
    x, targets = rng.integers(0, 11, (7, 5)), rng.integers(0, 11, (7, 5))
    targets[2, 3] = targets[6, 0] = -100
    goal = rng.standard_normal((7, 5, 11)).astype(dtype)

    y, _, tape = model.forward(x)
    their_y = theirs(torch.tensor(x))
    cross, dcross = clstm.cross_entropy(y, targets, ignore_index=-100)
    mse, dmse = clstm.mse_loss(y, goal)
    their_cross = torch.nn.functional.cross_entropy(their_y.reshape(-1, 11), torch.tensor(targets).reshape(-1))
    their_mse = torch.nn.functional.mse_loss(their_y, torch.tensor(goal))
    (their_cross + their_mse).backward()
    _, _, grads = model.backward(tape, dcross + dmse)

    np.testing.assert_allclose(y, their_y.detach().numpy(), rtol=0, atol=tolerance)
    assert cross == pytest.approx(their_cross.item(), rel=tolerance)
    assert mse == pytest.approx(their_mse.item(), rel=tolerance)
    for name, parameter in theirs.named_parameters():
        np.testing.assert_allclose(grads[name], parameter.grad.numpy(), rtol=0, atol=tolerance, err_msg=name)


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


# ---- optimizers


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


# ---- schedules


def test_cosine_is_half_a_cosine():
    schedule = clstm.cosine(0.5, total_steps=12, final_lr=0.1)
    expected = {0: 0.5, 2: 0.3 + 0.1 * math.sqrt(3), 3: 0.3 + 0.1 * math.sqrt(2), 4: 0.4, 6: 0.3, 8: 0.2, 12: 0.1}
    for step, rate in expected.items():
        assert schedule(step) == pytest.approx(rate, rel=1e-14)


@given(st.integers(1, 50), st.integers(0, 49), st.floats(0, 1))
def test_cosine_rises_to_lr_then_falls_to_final_lr(total_steps, warmup_steps, final_lr):
    warmup_steps = min(warmup_steps, total_steps - 1)
    schedule = clstm.cosine(1.0, total_steps, warmup_steps, final_lr)
    rates = [schedule(step) for step in range(total_steps + 3)]
    rise, fall = rates[:warmup_steps], rates[warmup_steps:]
    assert rise == [clstm.warmup(1.0, warmup_steps)(step) for step in range(warmup_steps)]
    assert all(rate > 0 for rate in rise) and rise == sorted(rise)
    assert fall[0] == 1.0
    assert fall == sorted(fall, reverse=True)
    assert rates[total_steps:] == pytest.approx([final_lr] * 3, abs=1e-15)


def test_constant_and_warmup():
    assert [clstm.constant(0.3)(step) for step in (0, 10**6)] == [0.3, 0.3]
    assert [clstm.warmup(0.5, 2)(step) for step in range(4)] == [0.25, 0.5, 0.5, 0.5]
    assert clstm.warmup(0.5, 0)(0) == 0.5


@pytest.mark.parametrize("warmup_steps", [-1, 10, 11])
def test_cosine_refuses_a_warmup_without_end(warmup_steps):
    with pytest.raises(ValueError, match=rf"warmup_steps is {warmup_steps}, but 0 to 9"):
        clstm.cosine(1.0, 10, warmup_steps)


# ---- Sequential


def make_model(dtype="float64"):
    return clstm.Sequential(
        clstm.Linear(3, 4, dtype=dtype, seed=0),
        clstm.LSTM(4, 5, dtype=dtype, seed=1),
        clstm.Linear(5, 4, dtype=dtype, seed=2),
        clstm.Sequential(clstm.LSTM(4, 3, dtype=dtype, seed=3), clstm.Linear(3, 2, dtype=dtype, seed=4)),
    )


def flat(state):
    """The arrays of a state."""
    return [array for entry in state for array in (flat(entry) if isinstance(entry, tuple) else [entry])]


def like(state, seed):
    """A state of the same form with random values."""
    rng = np.random.default_rng(seed)

    def fill(entry):
        return tuple(map(fill, entry)) if isinstance(entry, tuple) else rng.standard_normal(entry.shape)

    return fill(state)


def test_sequential_is_its_parts_one_after_another():
    model = make_model()
    (x,) = randoms(0, (6, 2, 3))
    first, lstm, linear, inner = model
    y1, state1 = lstm(first(x))
    y2, state2 = inner[0](linear(y1))
    y, state = model(x)
    assert y.tobytes() == inner[1](y2).tobytes()
    assert [a.tobytes() for a in flat(state)] == [a.tobytes() for a in flat((state1, state2))]
    assert len(state) == 2 and len(state[0]) == 2 and len(state[1]) == 1
    assert len(model) == 4 and model[1] is lstm


def test_sequential_names_parameters_by_position():
    assert list(make_model().parameters()) == [
        "0.weight",
        "0.bias",
        *(f"1.{name}_l0" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")),
        "2.weight",
        "2.bias",
        *(f"3.0.{name}_l0" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")),
        "3.1.weight",
        "3.1.bias",
    ]


def test_sequential_gradients():
    model = make_model()
    x, dy = randoms(5, (3, 2, 3), (3, 2, 2))
    state = like(model(x)[1], 6)
    _, new_state, tape = model.forward(x, state)
    dstate = like(new_state, 7)
    dx, dstate_in, grads = model.backward(tape, dy, dstate)
    assert list(grads) == list(model.parameters())

    def loss():
        y, new_state = model(x, state)
        return float((y * dy).sum() + sum((a * b).sum() for a, b in zip(flat(new_state), flat(dstate), strict=True)))

    assert_gradient(dx, loss, x)
    for gradient, array in zip(flat(dstate_in), flat(state), strict=True):
        assert_gradient(gradient, loss, array)
    for name, array in model.parameters().items():
        assert_gradient(grads[name], loss, array)


def test_state_carries_across_chunks_and_gradient_does_not():
    """Truncated BPTT: the chunks make the whole forward pass, and each gradient takes its first state as constant."""
    model = make_model()
    x, dy = randoms(8, (6, 2, 3), (6, 2, 2))
    whole, last = model(x)
    first, state, _ = model.forward(x[:4])
    second, end, tape = model.forward(x[4:], state)
    np.testing.assert_allclose(np.concatenate([first, second]), whole, rtol=1e-12)
    for a, b in zip(flat(end), flat(last), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)

    _, _, grads = model.backward(tape, dy[4:])
    for name, array in model.parameters().items():
        assert_gradient(grads[name], lambda: float((model(x[4:], state)[0] * dy[4:]).sum()), array)


def test_sequential_starts_from_zeros_where_there_is_no_state():
    model = make_model()
    (x,) = randoms(0, (4, 2, 3))
    y, state = model(x)
    zeros = tuple(tuple(np.zeros_like(a) if isinstance(a, np.ndarray) else a for a in entry) for entry in state[:1])
    assert model(x, (zeros[0], None))[0].tobytes() == y.tobytes()
    assert model(x, None)[0].tobytes() == y.tobytes()


def test_sequential_of_stateless_parts_has_an_empty_state():
    model = clstm.Sequential(clstm.Embedding(5, 3, seed=0), clstm.Linear(3, 2, seed=1))
    y, state = model([[1, 2], [3, 4]])
    assert y.shape == (2, 2, 2) and state == ()
    y, state, tape = model.forward([[1, 2], [3, 4]], ())
    dx, dstate, grads = model.backward(tape, np.ones_like(y), ())
    assert dx is None and dstate == ()
    assert list(grads) == ["0.weight", "1.weight", "1.bias"]


@pytest.mark.parametrize("bad", [(), (None,), (None, None, None), [None, None], np.zeros(2), "ab"])
def test_sequential_refuses_a_state_of_another_form(bad):
    model = make_model()
    x = np.zeros((4, 2, 3))
    y, _, tape = model.forward(x)
    with pytest.raises(ValueError, match=r"^state is a .* one entry for each of the 2 parts"):
        model(x, bad)
    with pytest.raises(ValueError, match=r"^state is a .* one entry for each of the 2 parts"):
        model.forward(x, bad)
    with pytest.raises(ValueError, match=r"^dstate is a .* one entry for each of the 2 parts"):
        model.backward(tape, y, bad)


def test_sequential_refuses_a_tape_that_is_not_its_own():
    model, x = make_model(), np.zeros((4, 2, 3))
    y, _, tape = model.forward(x)
    for wrong in (None, tape.parts, tape._replace(parts=tape.parts[:-1])):
        with pytest.raises(ValueError, match="(?s)^tape is .*, but one that this model's forward returned is expected"):
            model.backward(wrong, y)


@pytest.mark.parametrize("part", [clstm.Linear(3, 2), clstm.Embedding(3, 2)], ids=lambda part: type(part).__name__)
def test_parts_refuse_what_is_no_tape(part):
    _, tape = part.forward([[0, 1, 2]])
    for wrong in (None, (tape,)):
        with pytest.raises(ValueError, match="^tape is .*, but one that this layer's forward returned is expected"):
            part.backward(wrong, np.zeros((1, 2)))


def test_sequential_refuses_wrong_parts():
    linear = clstm.Linear(2, 2)
    with pytest.raises(TypeError, match="part 1 is a function, but a Module is expected"):
        clstm.Sequential(linear, lambda x: x)
    with pytest.raises(ValueError, match="part 2 stands at an earlier position already"):
        clstm.Sequential(linear, clstm.Linear(2, 2), linear)


def test_a_small_model_learns_a_text_by_truncated_bptt():
    text = np.frombuffer(b"to be or not to be, that is the question. " * 20, np.uint8) - 32
    model = clstm.Sequential(clstm.Embedding(96, 8, seed=0), clstm.LSTM(8, 24, seed=0), clstm.Linear(24, 96, seed=0))
    steps = 400
    optimizer = clstm.AdamW(model, lr=0.02)
    schedule = clstm.cosine(0.02, steps, 5)
    state, losses = None, []
    for step in range(steps):
        start = 20 * (step % 40)
        chunk = text[start : start + 21, None]
        logits, state, tape = model.forward(chunk[:-1], state)
        loss, dlogits = clstm.cross_entropy(logits, chunk[1:])
        _, _, grads = model.backward(tape, dlogits)
        clstm.clip_grad_norm(grads, 1.0)
        optimizer.lr = schedule(step)
        optimizer.step(grads)
        losses.append(loss)
    assert losses[0] > 4.0
    assert np.mean(losses[-10:]) < 0.7  # nats; single characters without memory have 2.4
