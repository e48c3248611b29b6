"""Variants of the LSTM: the formulas, the gradients, the promise about bits, and what stands in the way of mistakes."""

import copy
import pickle

import numpy as np
import pytest
from derivatives import Loss, assert_close, unit_vectors
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from problems import (
    ODD_SIZES,
    REGULARIZERS,
    Problem,
    assert_same_bytes,
    called,
    named,
    outputs,
    regularizers,
    torch_lstm,
    variant_problems,
)
from reference import lstm as reference
from reference_variants import ACTIVATIONS as FORMULAS
from test_bits import ISAS, PER_ROW, pieces, rows_of

import clstm
from clstm import _core
from clstm.variants import ACTIVATIONS

EVERYTHING = {
    "proj_size": 5,
    "peepholes": True,
    "coupling": "input",
    "activations": {"g": "softsign", "h": ["elu", 0.5]},
    "clip": 1.5,
    "cell_clip": 1.0,
    "proj_clip": 0.25,
    "learn_initial_state": True,
    "layer_norm": True,
    "layer_norm_eps": 0.01,
}
SINGLE = [
    {"proj_size": 5},
    {"peepholes": True},
    {"coupling": "forget"},
    {"coupling": "input"},
    {"forget_gate": False},
    {"activations": {"i": "hard_sigmoid", "f": "hard_sigmoid", "g": "relu", "o": "hard_sigmoid", "h": "identity"}},
    {"clip": 0.5},
    {"cell_clip": 0.5},
    {"proj_size": 5, "proj_clip": 0.1},
    {"learn_initial_state": True},
    {"layer_norm": True},
    EVERYTHING,
]
each_variant = pytest.mark.parametrize("variant", SINGLE, ids=lambda variant: "+".join(variant))
sizes = {"sizes": (1, 2, 3, 8, 9, 17), "batches": (1, 2, 5, 17), "layers": (1, 2), "steps": (1, 2, 7)}


# ---- the formulas ----


@settings(max_examples=150)
@given(variant_problems(**sizes) | variant_problems(zoneout=True, **sizes))
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


def function_values(name, x):
    """An activation and its slope over x, as cells that pass it from c_0 to the output."""
    one = ["affine", 0, 1]
    lstm = clstm.LSTM(1, 1, bias=False, forget_gate=False, activations={"o": one, "h": name}, dtype=x.dtype)
    state = np.zeros((1, len(x), 1)), x[None, :, None]
    y, _, tape = lstm.forward(np.zeros((1, len(x), 1)), state)
    _, (_, dc_0), _ = lstm.backward(tape, np.ones_like(y))
    return y[0, :, 0], dc_0[0, :, 0]


def exact_values(name, x):
    if name == "sigmoid":
        return 1 / (1 + np.exp(-x))
    if name == "softplus":
        return np.maximum(0, x) + np.log1p(np.exp(-np.abs(x)))
    return FORMULAS[name](x)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_accurate_and_so_are_their_slopes(name, dtype):
    rng = np.random.default_rng(0)
    x = np.concatenate([s * rng.standard_normal(3001) for s in (1e-6, 0.01, 0.3, 1, 4, 20)]).astype(dtype)
    wide = x.astype(np.longdouble)
    eps = np.finfo(dtype).eps
    slopes = FORMULAS[name](wide.astype(np.clongdouble) + 1e-30j).imag * 1e30
    for isa in ISAS:
        _core.set_isa(isa)
        y, slope = function_values(name, x)
        cancels = name in ("hard_sigmoid", "affine")  # alpha x + beta, where 0.2 is not a float
        np.testing.assert_allclose(y, exact_values(name, wide), rtol=float(4 * eps), atol=float(2 * eps * cancels))
        np.testing.assert_allclose(slope, slopes, rtol=float(8 * eps), atol=float(2 * eps))


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("hard_sigmoid", 0, 1),
        ("relu", 0, np.inf),
        ("leaky_relu", -np.inf, np.inf),
        ("thresholded_relu", 0, np.inf),
        ("elu", -1, np.inf),
        ("scaled_tanh", -1, 1),
        ("softsign", -1, 1),
        ("softplus", 0, np.inf),
    ],
)
def test_activations_at_the_ends(name, low, high):
    for dtype in ("float32", "float64"):
        y, _ = function_values(name, np.array([-np.inf, np.inf, np.nan, -1e30, 1e30], dtype))
        assert (y[0], y[1]) == (low, high)
        assert np.isnan(y[2])
        assert np.all(np.isfinite(y[3:]))


def test_both_hard_sigmoids():
    x = np.linspace(-4, 4, 41)
    np.testing.assert_allclose(function_values("hard_sigmoid", x)[0], np.clip(0.2 * x + 0.5, 0, 1), atol=1e-15)
    keras3 = ["hard_sigmoid", 1 / 6, 0.5]
    np.testing.assert_allclose(function_values(keras3, x)[0], np.clip(x + 3, 0, 6) / 6, atol=1e-15)


@pytest.mark.parametrize("neutral", [{"clip": 1e30}, {"cell_clip": 1e30}, {"peepholes": True}], ids=str)
def test_a_variant_that_changes_nothing_has_the_bits_of_the_plain_network(neutral):
    plain = Problem(5, 33, 2, True, T=9, B=7, with_lengths=True)
    variant = plain._replace(variant=neutral)
    lstm = variant.lstm()
    lstm.load_state_dict(plain.lstm().state_dict() | {k: 0 * v for k, v in lstm.state_dict().items() if "_ch_" in k})
    expected = outputs(plain.lstm(), plain.batch())
    found = outputs(lstm, plain.batch())
    assert_same_bytes({name: found[name] for name in expected}, expected)


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
@given(variant_problems(**sizes))
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


# ---- the promise about bits ----


@settings(max_examples=50)
@given(variant_problems(**sizes | {"batches": (2, 5, 17, 70)}), st.data())
def test_a_row_does_not_depend_on_its_batch(problem, data):
    lstm, batch = problem.lstm(), problem.batch()
    row = data.draw(st.integers(0, problem.B - 1))
    assert_same_bytes(rows_of(outputs(lstm, batch.rows([row])), [0]), rows_of(outputs(lstm, batch), [row]))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@each_variant
def test_results_do_not_depend_on_the_number_of_threads(variant, dtype):
    problem = Problem(17, 65, 2, True, dtype=dtype, T=20, B=33, with_lengths=True, variant=variant)
    lstm, batch, found = problem.lstm(), problem.batch(), {}
    for threads in (1, 2, 3, 5):
        clstm.set_num_threads(threads)
        found[threads] = outputs(lstm, batch)
        assert_same_bytes(found[threads], found[1])


@settings(max_examples=40)
@given(variant_problems(**sizes | {"steps": (2, 7, 15)}, bidirectional=False, with_lengths=False))
def test_results_do_not_depend_on_how_time_was_cut(problem):
    lstm, batch = problem.lstm(), problem.batch()
    whole = outputs(lstm, batch)
    for size in (1, 7):
        y, tapes, state = [], [], batch.state
        for piece in pieces(problem.T, size):
            part, state, tape = lstm.forward(batch.x[piece], state)
            y.append(part)
            tapes.append((piece, tape))
        dx, dstate = np.empty_like(batch.x), batch.dstate
        for piece, tape in reversed(tapes):
            dx[piece], dstate, _ = lstm.backward(tape, batch.dy[piece], dstate)
        found = {
            "y": np.concatenate(y),
            "h_n": state[0],
            "c_n": state[1],
            "dx": dx,
            "dh_0": dstate[0],
            "dc_0": dstate[1],
        }
        assert_same_bytes(found, {name: whole[name] for name in PER_ROW})


@settings(max_examples=40)
@given(variant_problems(zoneout=True, **sizes, bidirectional=False, with_lengths=False))
def test_a_stream_gives_the_outputs_of_a_call(problem):
    lstm, batch = problem.lstm(), problem.batch()
    stream = lstm.stream(problem.B)
    if batch.state:
        stream.state = batch.state
    y = np.stack([stream.step(x_t) for x_t in batch.x])
    assert_same_bytes({"y": y, "h_n": stream.state[0], "c_n": stream.state[1]}, called(lstm, batch))


@settings(max_examples=80)
@given(variant_problems(**sizes | {"sizes": ODD_SIZES}))
def test_results_do_not_depend_on_the_instruction_set(problem):
    found = []
    for isa in ISAS:
        _core.set_isa(isa)
        found.append(outputs(problem.lstm(), problem.batch()))
        assert_same_bytes(found[-1], found[0])


@each_variant
def test_nan_and_infinity_stay_in_their_row(variant):
    problem = Problem(5, 9, 1, True, T=6, B=4, variant=variant)
    lstm, batch = problem.lstm(), problem.batch()
    expected = rows_of(outputs(lstm, batch), [0, 3])
    batch.x[2, 1], batch.x[3, 2] = np.nan, np.inf
    found = outputs(lstm, batch)
    assert_same_bytes(rows_of(found, [0, 3]), expected)
    assert np.isnan(found["y"][2:, 1, : problem.features]).all()
    assert np.isfinite(found["y"][:2, 1, : problem.features]).all()


# ---- dropout inside the cell, and zoneout ----


each_regularizer = pytest.mark.parametrize(
    "options", [*({name: 0.3} for name in REGULARIZERS), dict.fromkeys(REGULARIZERS, 0.3)], ids="+".join
)


def recurrent_masks(p, T, B, H, **options):
    """The factors on g: outputs of a network that adds them up."""
    one = ["affine", 0, 1]
    functions = {"i": one, "g": one, "o": one, "h": "identity"}
    options = {"forget_gate": False, "activations": functions, "seed": 0, "dtype": "float64"} | options
    lstm = clstm.LSTM(1, H, recurrent_dropout=p, **options)
    y, _, _ = lstm.forward(np.zeros((T, B, 1)))
    return np.diff(y, axis=0, prepend=0), lstm


@pytest.mark.parametrize("p", [0.25, 0.5, 0.75])
def test_recurrent_dropout_scales_what_it_keeps(p):
    masks, lstm = recurrent_masks(p, 40, 50, 30)
    kept = masks > 0.5
    np.testing.assert_allclose(masks, kept / (1 - p), atol=1e-12)
    for axes in ((1, 2), (0, 2), (0, 1)):  # each step, row and unit has masks of its own
        assert np.all(np.abs(kept.mean(axes) - (1 - p)) < 0.12)
    again, _ = recurrent_masks(p, 40, 50, 30)
    assert_same_bytes(again, masks)
    later = np.diff(lstm.forward(np.zeros((40, 50, 1)))[0], axis=0, prepend=0)
    assert 0 < np.mean((later > 0.5) == kept) < 1
    assert_same_bytes(lstm(np.zeros((40, 50, 1)))[0][-1], np.full((50, 30), 40.0))  # the expectation


def test_recurrent_dropout_of_all_or_nothing():
    assert not recurrent_masks(1.0, 5, 3, 4)[0].any()
    assert "recurrent_dropout" not in clstm.LSTM(3, 4, recurrent_dropout=0).config()


@each_regularizer
@pytest.mark.parametrize("bidirectional", [False, True])
def test_checkpoints_make_the_same_masks_again(bidirectional, options):
    variant = {"layer_norm": True, "peepholes": True, "dropout": 0.2, **options}
    problem = Problem(3, 9, 2, bidirectional, T=13, B=5, with_lengths=True, variant=variant)
    found = []
    for checkpoint in (False, 4):
        lstm, batch = problem.lstm(), problem.batch()
        y, state, tape = lstm.forward(batch.x, batch.state, batch.lengths, checkpoint=checkpoint)
        dx, dstate, grads = lstm.backward(tape, batch.dy, batch.dstate)
        found.append(named(y, state) | {"dx": dx, "dh": dstate[0], "dc": dstate[1]} | grads)
    assert_same_bytes(*found)


@pytest.mark.parametrize("variant", [{}, {"proj_size": 5, "peepholes": True}, {"layer_norm": True}], ids=str)
def test_zoneout_takes_each_element_from_before_or_from_the_new_step(variant):
    lstm = clstm.LSTM(3, 9, zoneout_c=0.4, zoneout_h=0.7, seed=0, **variant)
    without = clstm.LSTM(3, 9, seed=0, **variant)
    x = np.random.default_rng(0).standard_normal((1, 200, 3)).astype(np.float32)
    before = without(x)[1]
    _, expected = without(x, before)
    _, found, _ = lstm.forward(x, before)
    for old, new, array, p in zip(before, expected, found, (0.7, 0.4), strict=True):
        assert np.all((array == old) | (array == new))
        assert abs(np.mean(array == old) - p) < 0.05


def test_zoneout_draws_for_each_step_row_and_unit():
    x = np.random.default_rng(0).standard_normal((40, 50, 3)).astype(np.float32)
    y, _, _ = clstm.LSTM(3, 30, zoneout_h=0.3, seed=0).forward(x)
    one = ["affine", 0, 1]
    counting = {"forget_gate": False, "activations": {"i": one, "g": one, "o": one, "h": "identity"}}
    h, _, _ = clstm.LSTM(3, 30, zoneout_c=0.3, seed=0, **counting).forward(x)  # 1 more than the c before
    for stayed in (y[1:] == y[:-1], h[1:] == h[:-1]):
        for axes in ((1, 2), (0, 2), (0, 1)):
            assert np.all(np.abs(stayed.mean(axes) - 0.3) < 0.12)


def test_zoneout_of_all_keeps_the_state():
    problem = Problem(3, 9, 2, True, variant={"zoneout_c": 1, "zoneout_h": 1})
    lstm, batch = problem.lstm(), problem.batch()
    _, state, tape = lstm.forward(batch.x, batch.state)
    _, dstate, grads = lstm.backward(tape, None, batch.dstate)
    assert_same_bytes(dict(zip("hc", state, strict=True)), dict(zip("hc", batch.state, strict=True)))
    assert_same_bytes(dict(zip("hc", dstate, strict=True)), dict(zip("hc", batch.dstate, strict=True)))
    assert not any(array.any() for array in grads.values())


def test_variational_dropout_has_one_mask_for_all_steps_of_a_row():
    x = np.random.default_rng(0).standard_normal((6, 50, 40)).astype(np.float32)
    state = tuple(np.random.default_rng(1).standard_normal((2, 1, 50, 30)).astype(np.float32))
    plain, scale = clstm.LSTM(40, 30, seed=0), np.float32(1 / 0.7)

    on_x = clstm.LSTM(40, 30, seed=0, variational_dropout_x=0.3)
    y, _, tape = on_x.forward(x)
    kept = on_x.backward(tape, np.ones_like(y))[0] != 0
    assert np.all(kept == kept[0])
    assert_same_bytes(y, plain(x * kept * scale)[0])
    assert_same_bytes(on_x(x)[0], plain(x)[0])

    on_h = clstm.LSTM(40, 30, seed=0, variational_dropout_h=0.3)
    y, _, tape = on_h.forward(x, state)
    kept_h = on_h.backward(tape, np.ones_like(y))[1][0] != 0
    for t in range(6):
        y_t, state = plain(x[t : t + 1], (state[0] * kept_h * scale, state[1]))
        assert_same_bytes(y[t], y_t[0])

    for mask in (kept[0], kept_h[0]):  # each row and feature has masks of its own
        assert np.all(np.abs(mask.mean(0) - 0.7) < 0.25)
        assert np.all(np.abs(mask.mean(1) - 0.7) < 0.3)
        assert abs(mask.mean() - 0.7) < 0.05


def test_variational_dropout_differs_between_layers_and_directions():
    lstm = clstm.LSTM(40, 40, 2, bidirectional=True, variational_dropout_x=0.5, variational_dropout_h=0.5, seed=0)
    y, _, tape = lstm.forward(np.ones((9, 1, 40)), (np.ones((4, 1, 40)), np.ones((4, 1, 40))))
    dx, (dh_0, _), grads = lstm.backward(tape, np.ones_like(y))
    below, above = dx[0, 0] != 0, np.any(grads["weight_ih_l1"] != 0, axis=0)
    masks = [below, above[:40], above[40:], *(dh_0[:, 0] != 0)]
    for i, mask in enumerate(masks):
        assert 0.2 < mask.mean() < 0.8
        assert all(0.2 < np.mean(mask == other) < 0.8 for other in masks[:i])


def test_directions_and_layers_have_masks_of_their_own():
    masks, _ = recurrent_masks(0.5, 30, 20, 10, bidirectional=True)
    forward, reverse = masks[..., :10] > 0.5, np.diff(masks[..., 10:], axis=0) != 0
    assert 0.3 < np.mean(forward[1:] == reverse) < 0.7


@settings(max_examples=25)
@given(
    variant_problems(
        smooth=True, sizes=(1, 2, 3, 9), layers=(1, 2), batches=(1, 2, 5), steps=(1, 3, 7), dtypes=["float64"]
    ),
    regularizers(),
)
def test_gradients_through_masks_agree_with_central_differences(problem, options):
    check_central_differences(Loss(problem, **options), problem.seed)


@each_regularizer
def test_gradients_of_long_sequences_through_masks_agree_with_central_differences(options):
    """More steps than are handled at once."""
    problem = Problem(3, 5, 2, True, dtype="float64", T=130, B=3, with_lengths=True)
    check_central_differences(Loss(problem, **options), 0)


def check_central_differences(loss, seed):
    rng = np.random.default_rng(seed)
    for name, gradient in loss.gradients().items():
        direction = rng.standard_normal(gradient.shape)
        direction /= np.linalg.norm(direction)
        norm = np.linalg.norm(gradient)
        found = loss.central_difference(name, direction)
        assert abs(found - np.sum(gradient * direction)) <= 1e-7 * norm + 1e-12 * (norm == 0), name


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@each_regularizer
def test_masks_have_the_same_bits_on_any_machine(options, dtype):
    options = {"dropout": 0.2, "proj_size": 7, "layer_norm": True, **options}
    problem = Problem(17, 65, 2, True, dtype=dtype, T=9, B=33, with_lengths=True, variant=options)
    found = []
    for isa, threads in [*((isa, 1) for isa in ISAS), (ISAS[0], 2), (ISAS[0], 3)]:
        _core.set_isa(isa)
        clstm.set_num_threads(threads)
        lstm, batch = problem.lstm(), problem.batch()
        plain = {f"plain {name}": array for name, array in called(lstm, batch).items()}
        y, state, tape = lstm.forward(batch.x, batch.state, batch.lengths)
        dx, dstate, grads = lstm.backward(tape, batch.dy, batch.dstate)
        found.append(plain | named(y, state) | {"dx": dx, "dh": dstate[0], "dc": dstate[1]} | grads)
        assert_same_bytes(found[-1], found[0])


# ---- an LSTM like any other ----


@each_regularizer
def test_regularizers_are_kept(options, tmp_path):
    lstm = clstm.LSTM(3, 9, seed=0, **options)
    x = np.ones((4, 2, 3), np.float32)
    lstm.save(tmp_path / "file.safetensors")
    for same in (clstm.LSTM(**lstm.config()), clstm.LSTM.load(tmp_path / "file.safetensors")):
        assert same.config() == lstm.config() == {**clstm.LSTM(3, 9).config(), **options}
        assert repr(same) == repr(lstm)
    assert_same_bytes(pickle.loads(pickle.dumps(lstm)).forward(x)[0], copy.deepcopy(lstm).forward(x)[0])
    assert not np.array_equal(lstm.forward(x)[0], lstm.forward(x)[0])
    for name in options:
        with pytest.raises(AttributeError, match=f"{name} is fixed"):
            setattr(lstm, name, 0.0)
        with pytest.raises(ValueError, match=f"{name} is 1.5, but a number from 0 to 1 is expected"):
            clstm.LSTM(3, 9, **{name: 1.5})


@each_variant
def test_configuration_copies_and_files(variant, tmp_path):
    problem = Problem(3, 9, 2, True, variant=variant)
    lstm, batch = problem.lstm(), problem.batch()
    expected = outputs(lstm, batch)
    lstm.save(tmp_path / "file.safetensors")
    twin = clstm.LSTM(**lstm.config())
    twin.load_state_dict(lstm.state_dict())
    for same in (
        twin,
        clstm.LSTM.load(tmp_path / "file.safetensors"),
        copy.deepcopy(lstm),
        pickle.loads(pickle.dumps(lstm)),
        eval(repr(lstm), {"LSTM": type(lstm)}).load_state_dict(lstm.state_dict()) or twin,
    ):
        assert same.config() == lstm.config()
        assert repr(same) == repr(lstm)
        assert_same_bytes(outputs(same, batch), expected)
    for name in variant:
        assert f"{name}=" in repr(lstm)
        with pytest.raises(AttributeError, match=f"{name} is fixed"):
            setattr(lstm, name, None)


def test_the_plain_network_is_described_as_before():
    assert clstm.LSTM(3, 4).config().keys() == {
        *("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional", "dtype")
    }
    usual = {"activations": {"i": "sigmoid", "h": "tanh"}, "clip": None, "coupling": None, "forget_gate": True}
    assert clstm.LSTM(3, 4, **usual).config() == clstm.LSTM(3, 4).config()


def test_gates_without_weights_have_no_parameters():
    for options in ({"coupling": "forget"}, {"coupling": "input"}, {"forget_gate": False}):
        lstm = clstm.LSTM(3, 4, peepholes=True, **options)
        shapes = {name: array.shape for name, array in lstm.parameters().items()}
        assert shapes == {
            "weight_ih_l0": (12, 3),
            "weight_hh_l0": (12, 4),
            "bias_ih_l0": (12,),
            "bias_hh_l0": (12,),
            "weight_ch_l0": (2, 4),
        }


def test_three_activations_are_those_of_gates_candidate_and_output():
    lstm = clstm.LSTM(3, 4, activations=["hard_sigmoid", "softsign", ("elu", 2)])
    gate = ("hard_sigmoid", 0.2, 0.5)
    assert lstm.activations == {"i": gate, "f": gate, "g": "softsign", "o": gate, "h": ("elu", 2.0)}


def test_a_cell_takes_the_same_options():
    cell = clstm.LSTMCell(3, 9, seed=0, **EVERYTHING)
    lstm = clstm.LSTM(3, 9, seed=0, **EVERYTHING)
    x = np.ones((2, 3), np.float32)
    h, c = cell(x)
    assert_same_bytes(np.concatenate([h, c], 1), np.concatenate([a[0] for a in lstm(x[None])[1]], 1))
    (h, c), tape = cell.forward(x, (h, c))
    dx, dstate, grads = cell.backward(tape, np.ones_like(h), np.ones_like(c))
    assert {name: g.shape for name, g in grads.items()} == {name: p.shape for name, p in cell.parameters().items()}
    assert (dstate[0].shape, dstate[1].shape) == ((2, 5), (2, 9))
    assert clstm.LSTMCell(**cell.config()).config() == cell.config()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"proj_size": 4}, ValueError, "proj_size is 4, but less than hidden_size 4 is expected"),
        ({"proj_size": -1}, ValueError, "proj_size is -1, but at least 0 is expected"),
        ({"proj_size": 1.5}, TypeError, "proj_size is 1.5, but an integer is expected"),
        ({"peepholes": 1}, TypeError, "peepholes is 1, but True or False is expected"),
        ({"coupling": "f"}, ValueError, "coupling is 'f', but None, 'forget' .* or 'input' .* is expected"),
        ({"coupling": "forget", "forget_gate": False}, ValueError, "coupling is 'forget', but forget_gate is False"),
        ({"forget_gate": None}, TypeError, "forget_gate is None, but True or False is expected"),
        ({"activations": "relu"}, TypeError, "activations is 'relu', but a dict with keys"),
        ({"activations": {"c": "relu"}}, ValueError, "activations has 'c', but its keys are 'i', 'f', 'g', 'o', 'h'"),
        ({"activations": {"g": "swish"}}, ValueError, r"activations\['g'\] is 'swish', but known are sigmoid, tanh"),
        ({"activations": {"g": None}}, ValueError, r"activations\['g'\] is None, but known are sigmoid, tanh"),
        ({"activations": {"g": ("relu", 1)}}, ValueError, "but relu takes no parameters"),
        ({"activations": {"g": ("elu", 1, 2)}}, ValueError, "but elu takes alpha$"),
        ({"activations": {"g": ("elu", np.inf)}}, ValueError, r"alpha of activations\['g'\] is inf, but a finite"),
        ({"activations": {"g": ("elu", "1")}}, TypeError, r"alpha of activations\['g'\] is '1', but a number"),
        ({"activations": {"f": "relu"}, "forget_gate": False}, ValueError, "activations has 'f', but forget_gate"),
        ({"layer_norm": 1e-5}, TypeError, "layer_norm is 1e-05, but True or False is expected"),
        (
            {"layer_norm": True, "layer_norm_eps": 0},
            ValueError,
            "layer_norm_eps is 0.0, but a number above 0 is expected",
        ),
        ({"layer_norm": True, "layer_norm_eps": None}, TypeError, "layer_norm_eps is None, but a number is expected"),
        ({"layer_norm_eps": 0.1}, ValueError, "layer_norm_eps is 0.1, but layer_norm is False"),
        ({"learn_initial_state": 1}, TypeError, "learn_initial_state is 1, but True or False is expected"),
        ({"clip": 1e-40}, ValueError, "clip is 1e-40, but at least 1.17"),
        ({"zoneout_c": 1e-45}, ValueError, "zoneout_c is 1e-45, but at least 1.17.* is expected: less counts as 0"),
        ({"clip": 0}, ValueError, "clip is 0.0, but a number above 0, or None for no limit, is expected"),
        ({"clip": -1.0}, ValueError, "clip is -1.0, but a number above 0"),
        ({"cell_clip": True}, TypeError, "cell_clip is True, but a number is expected"),
        ({"proj_clip": np.nan, "proj_size": 2}, ValueError, "proj_clip is nan, but a finite number is expected"),
        ({"proj_clip": 1.0}, ValueError, "proj_clip is 1.0, but proj_size is 0: there is no projection to limit"),
    ],
)
def test_wrong_options_are_refused(options, error, message):
    for kind in (clstm.LSTM, clstm.LSTMCell):
        with pytest.raises(error, match=message):
            kind(3, 4, **options)
