"""Sequential: parts one after another, their parameters, states, tapes and gradients."""

import numpy as np
import pytest
from derivatives import assert_gradient, randoms

import clstm


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


def test_sequential_refuses_wrong_parts():
    linear = clstm.Linear(2, 2)
    with pytest.raises(TypeError, match="part 1 is a function, but a Module is expected"):
        clstm.Sequential(linear, lambda x: x)
    with pytest.raises(ValueError, match="part 2 stands at an earlier position already"):
        clstm.Sequential(linear, clstm.Linear(2, 2), linear)
