"""Linear: values, gradients, initial values and errors."""

import numpy as np
import pytest
from derivatives import assert_gradient, leading, randoms, seeds
from hypothesis import given
from hypothesis import strategies as st

import clstm


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


def test_linear_keeps_nan_in_its_row():
    linear = clstm.Linear(3, 2, seed=0)
    x = np.ones((4, 3), np.float32)
    expected = linear(x)
    x[1, 2] = np.nan
    y = linear(x)
    assert np.isnan(y[1]).all()
    np.testing.assert_allclose(y[[0, 2, 3]], expected[[0, 2, 3]], rtol=1e-6)


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
