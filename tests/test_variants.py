"""Variants of the LSTM: the formulas, beside the reference and PyTorch, and their gradients."""

import numpy as np
import pytest
from derivatives import Loss, assert_close, unit_vectors
from hypothesis import assume, given, settings
from problems import (
    VARIANT_SIZES,
    Problem,
    assert_same_bytes,
    called,
    each_variant,
    outputs,
    torch_lstm,
    variant_problems,
)
from reference import lstm as reference

import clstm


@settings(max_examples=150)
@given(variant_problems(**VARIANT_SIZES) | variant_problems(zoneout=True, **VARIANT_SIZES))
def test_outputs_are_those_of_the_reference(problem):
    lstm, batch = problem.lstm(), problem.batch()
    y, state = reference(
        lstm.state_dict(), batch.x, batch.state or (None, None), batch.lengths, options=problem.variant
    )
    found = called(lstm, batch)
    tolerance = {"float32": 3e-6, "float64": 1e-14}[problem.dtype]
    for name, expected in {"y": y, "h_n": state[0], "c_n": state[1]}.items():
        assert found[name].shape == expected.shape
        np.testing.assert_allclose(found[name], expected, rtol=tolerance, atol=tolerance * (1 + np.abs(expected).max()))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("I", "H", "P"), [(3, 4, 2), (17, 33, 9), (5, 65, 64), (1, 2, 1)])
def test_projection_is_that_of_pytorch(I, H, P, bidirectional, dtype):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    problem = Problem(I, H, 2, bidirectional, dtype=dtype, T=6, B=3, variant={"proj_size": P})
    module, lstm, batch = torch_lstm(torch, problem), problem.lstm(), problem.batch()
    assert [(name, tuple(p.shape)) for name, p in module.named_parameters()] == [
        (name, p.shape) for name, p in lstm.parameters().items()
    ]
    lstm.load_state_dict({name: p.detach().numpy() for name, p in module.named_parameters()})
    x, *state = (torch.tensor(array, requires_grad=True) for array in (batch.x, *batch.state))
    y, (h_n, c_n) = module(x, tuple(state))
    loss = sum((torch.tensor(d) * a).sum() for d, a in zip((batch.dy, *batch.dstate), (y, h_n, c_n), strict=True))
    loss.backward()
    expected = {"y": y, "h_n": h_n, "c_n": c_n, "dx": x.grad, "dh_0": state[0].grad, "dc_0": state[1].grad}
    expected |= {name: p.grad for name, p in module.named_parameters()}
    tolerance = {"float32": 1e-5, "float64": 1e-13}[dtype]
    for name, found in outputs(lstm, batch).items():
        np.testing.assert_allclose(found, expected[name].detach().numpy(), rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("bias", [False, True])
def test_layer_normalisation_is_that_of_pytorch(bias):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    I, H, T, B = 5, 37, 4, 3
    lstm = clstm.LSTM(I, H, bias=bias, layer_norm=True, dtype="float64", seed=0)
    rng = np.random.default_rng(0)
    values = {name: rng.standard_normal(array.shape) for name, array in lstm.parameters().items()}
    lstm.load_state_dict(values)
    x = rng.standard_normal((T, B, I))
    w = {name.removesuffix("_l0"): torch.tensor(array, requires_grad=True) for name, array in values.items()}
    h = c = torch.zeros(B, H, dtype=torch.float64)
    expected = []
    for x_t in torch.tensor(x):
        rows = (x_t @ w["weight_ih"].T + h @ w["weight_hh"].T).unflatten(1, (4, H))
        normed = torch.nn.functional.layer_norm(rows, (H,), eps=1e-5).flatten(1) * w["weight_ln"].flatten()
        i, f, g, o = (normed + (w["bias_ih"] + w["bias_hh"] if bias else 0)).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * torch.nn.functional.layer_norm(c, (H,), w["weight_ln_c"], w.get("bias_ln_c"), 1e-5).tanh()
        expected.append(h)
    torch.stack(expected).square().sum().backward()
    y, _, tape = lstm.forward(x)
    np.testing.assert_allclose(y, torch.stack(expected).detach(), rtol=1e-12, atol=1e-12)
    for name, gradient in lstm.backward(tape, 2 * y)[2].items():
        np.testing.assert_allclose(gradient, w[name.removesuffix("_l0")].grad, rtol=1e-9, atol=1e-10, err_msg=name)


def test_gains_of_layer_normalisation_start_at_1():
    for init in ("default", "pytorch"):
        lstm = clstm.LSTM(3, 4, layer_norm=True, init=init, seed=0)
        assert (lstm.weight_ln_l0 == 1).all()
        assert (lstm.weight_ln_c_l0 == 1).all()
    assert "bias_ln_c_l0" not in clstm.LSTM(3, 4, bias=False, layer_norm=True).state_dict()


# ---- gradients ----


@settings(max_examples=25)
@given(variant_problems(smooth=True, sizes=(1, 2, 3), layers=(1, 2), batches=(1, 2), steps=(1, 3), dtypes=["float64"]))
def test_every_element_agrees_with_central_differences(problem):
    loss = Loss(problem)
    for name, gradient in loss.gradients().items():
        if gradient.size <= 40:
            found = [loss.central_difference(name, vector) for vector in unit_vectors(gradient.shape)]
            assert_close(np.reshape(found, gradient.shape), gradient, 1e-7, name)


@settings(max_examples=150)
@given(variant_problems(**VARIANT_SIZES))
def test_gradients_agree_with_the_derivative_of_the_reference(problem):
    loss = Loss(problem)
    gradients = loss.gradients()
    assume(all(np.abs(gradient).max() < 1e6 for gradient in gradients.values()))  # softplus may make c explode
    rng = np.random.default_rng(problem.seed)
    for name, gradient in gradients.items():
        assert gradient.dtype == problem.dtype
        assert gradient.shape == loss.arguments[name].shape
        direction = rng.choice([-1.0, 1.0], gradient.shape)
        found = np.sum(gradient * direction, dtype=np.float64)
        tolerance = {"float32": 1e-5, "float64": 3e-14}[problem.dtype] * np.sqrt(gradient.size)
        assert abs(found - loss.complex_step(name, direction)) <= tolerance * (1 + np.linalg.norm(gradient)), name


@each_variant
def test_long_sequences_agree_with_the_derivative_of_the_reference(variant):
    """More steps than are handled at once."""
    loss = Loss(Problem(3, 9, 2, True, dtype="float64", T=300, B=3, with_lengths=True, variant=variant))
    rng = np.random.default_rng(0)
    for name, gradient in loss.gradients().items():
        direction = rng.choice([-1.0, 1.0], gradient.shape)
        expected = loss.complex_step(name, direction)
        assert abs(np.sum(gradient * direction) - expected) <= 1e-12 * (1 + np.linalg.norm(gradient)), name


# ---- the learned initial state ----


@pytest.mark.parametrize("proj_size", [0, 5])
def test_a_learned_initial_state_stands_in_for_one_that_is_not_given(proj_size):
    options = {"learn_initial_state": True, "proj_size": proj_size}
    problem = Problem(3, 9, 2, True, B=4, with_lengths=True, variant=options)
    lstm, batch = problem.lstm(), problem.batch()
    places = [f"l{layer}{suffix}" for layer in (0, 1) for suffix in ("", "_reverse")]
    learned = [np.stack([[getattr(lstm, f"{kind}_{place}")] * 4 for place in places]) for kind in ("h_0", "c_0")]
    explicit = outputs(lstm, batch._replace(state=tuple(learned)))
    order = np.argsort(-batch.lengths, kind="stable")
    for both in [(True, True), (True, False), (False, True), (False, False)]:
        state = tuple(array if yes else None for array, yes in zip(learned, both, strict=True))
        for name, array in outputs(lstm, batch._replace(state=state)).items():
            if not name.startswith(("h_0_", "c_0_")):
                assert_same_bytes(array, explicit[name])
            elif both["hc".index(name[0])]:
                assert not array.any()
            else:
                rows = explicit[f"d{name[:3]}"][places.index(name[4:])][order]
                assert_same_bytes(array, np.add.accumulate(np.concatenate([0 * rows[:1], rows]))[-1])


def test_streams_start_at_the_learned_initial_state():
    options = {"learn_initial_state": True, "proj_size": 4}
    problem = Problem(3, 9, 2, T=5, B=2, variant=options)
    lstm, x = problem.lstm(), problem.batch().x
    stream = lstm.stream(2)
    for _ in range(2):
        assert_same_bytes(np.stack([stream.step(x_t) for x_t in x]), lstm(x)[0])
        stream.reset()
