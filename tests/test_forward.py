"""The forward pass: values beside the independent reference, shapes, and what its parts mean."""

import numpy as np
import pytest
from hypothesis import given, settings
from problems import ISAS, Problem, assert_same_bytes, called, named, problems
from reference import lstm as reference

import clstm
from clstm import _core

# Rounding errors only: about 20 steps of states below 4 in size.
TOLERANCE = {"float32": 2e-6, "float64": 1e-14}


def assert_near_reference(problem):
    lstm, batch = problem.lstm(), problem.batch()
    expected = named(*reference(lstm.parameters(), batch.x, batch.state or (None, None), batch.lengths))
    for name, array in called(lstm, batch).items():
        assert array.dtype == problem.dtype
        assert array.shape == expected[name].shape
        np.testing.assert_allclose(array, expected[name], rtol=0, atol=TOLERANCE[problem.dtype])


@settings(max_examples=150)
@given(problems(sizes=(1, 2, 3, 5, 8, 13, 17), batches=(0, 1, 2, 3, 7), steps=(0, 1, 2, 9)))
def test_small_networks_agree_with_the_reference(problem):
    assert_near_reference(problem)


@settings(max_examples=40)
@given(problems(layers=(1, 2), steps=(1, 2, 7), batches=(1, 3, 17)))
def test_odd_sizes_agree_with_the_reference(problem):
    assert_near_reference(problem)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_long_sequence_agrees_with_the_reference(dtype, bidirectional):
    assert_near_reference(Problem(5, 24, 2, bidirectional, dtype=dtype, T=400, B=2))


def fma(a, b, c):
    """float32 a * b + c with one rounding. The product of two float32 is exact in float64."""
    a, b, c = (np.asarray(array, np.float64) for array in (a, b, c))
    return (a * b + c).astype(np.float32)


ROUND = np.float32(float.fromhex("0x1.8p23"))  # added to a small number, leaves its nearest integer in the low bits
LN2_HI, LN2_LO = (np.float32(float.fromhex(x)) for x in ("0x1.62e43p-1", "-0x1.05c61p-29"))


def add_coth(first, r, unit, scale):
    """first + scale * (p coth(p) - 1) with p = unit * r."""
    u, q, scale = np.float32(unit * unit), r * r, np.float32(scale)
    c = fma(np.float32(-0.0221213155) * (u * u) * scale, q, np.float32(0.333332262) * u * scale)
    return fma(c, q, first)


def sigmoid_fraction(x):
    z = np.clip(x, np.float32(-89), np.float32(88))
    n = fma(z, -np.log2(np.e), ROUND) - ROUND
    rough = fma(n, LN2_HI, z)
    r = fma(n, LN2_LO, rough)
    a = add_coth(fma(r, 1.6875 / 2, 1.6875), rough, 0.5, 1.6875)
    return a, fma(np.exp2(n), fma(r, -1.6875, a), a)


def tanh_fraction(x):
    z = np.minimum(np.abs(x), np.float32(10))
    n = fma(z, np.float32(2.7), ROUND) - ROUND
    p, s = fma(n, -LN2_HI / 2, z), np.exp2(n)
    h = fma(p, -0.5, add_coth(0.5, p, 1, 0.5))
    m = fma(s - 1, h, s * p)
    return np.copysign(m, x), fma(h, 2, m)


def product(a, b):
    return (a[0] * b[0]) / (a[1] * b[1])


def step_as_promised(parameters, x, h, c):
    """One step of rows x (B, I), float32, as docs/numerics.md promises it: each pre-activation is one chain of fused
    multiply-adds, bias first, then inputs, then recurrent terms, k ascending; i g and o tanh(c) are one quotient each.
    """
    z = np.broadcast_to(parameters["bias_ih_l0"] + parameters["bias_hh_l0"], (len(x), 4 * h.shape[1]))
    for k in range(x.shape[1]):
        z = fma(x[:, k, None], parameters["weight_ih_l0"][:, k], z)
    for k in range(h.shape[1]):
        z = fma(h[:, k, None], parameters["weight_hh_l0"][:, k], z)
    i, f, g, o = np.split(z, 4, axis=1)
    c = fma(np.divide(*sigmoid_fraction(f)), c, product(sigmoid_fraction(i), tanh_fraction(g)))
    return product(sigmoid_fraction(o), tanh_fraction(c)), c


def test_the_quotients_above_are_sigmoid_and_tanh():
    x = np.linspace(-87, 100, 4001, dtype=np.float32)
    assert_same_bytes(np.divide(*sigmoid_fraction(x)), _core.apply(1, x))
    assert_same_bytes(np.divide(*tanh_fraction(x)), _core.apply(2, x))


@pytest.mark.parametrize(("I", "H", "B"), [(1, 1, 1), (3, 5, 2), (7, 17, 5), (33, 31, 7), (13, 65, 3)])
@pytest.mark.parametrize("isa", ISAS)
def test_outputs_are_the_promised_chains_of_fused_multiply_adds(I, H, B, isa):
    _core.set_isa(isa)
    problem = Problem(I, H, T=4, B=B)
    lstm, batch = problem.lstm(), problem.batch()
    h, c = batch.state[0][0], batch.state[1][0]
    y, _ = lstm(batch.x, batch.state)
    for t in range(problem.T):
        h, c = step_as_promised(lstm.state_dict(), batch.x[t], h, c)
        assert_same_bytes(y[t], h)


def test_shapes_of_the_pytorch_documentation():
    y, (h_n, c_n) = clstm.LSTM(128, 64, num_layers=3)(np.zeros((10, 16, 128), np.float32))
    assert y.shape == (10, 16, 64)
    assert h_n.shape == c_n.shape == (3, 16, 64)


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_final_states_are_ordered_by_layer_and_then_direction(num_layers):
    problem = Problem(3, 4, num_layers, bidirectional=True, T=6, B=5)
    lstm, batch = problem.lstm(), problem.batch()
    y, (h_n, _) = lstm(batch.x, batch.state)
    assert_same_bytes(h_n[-2], y[-1, :, :4])
    assert_same_bytes(h_n[-1], y[0, :, 4:])
    below = clstm.LSTM(3, 4, bidirectional=True)
    below.load_state_dict({name: lstm.parameters()[name] for name in below.parameters()})
    _, (h_below, c_below) = below(batch.x, tuple(array[:2] for array in batch.state))
    _, (h_n, c_n) = lstm(batch.x, batch.state)
    assert_same_bytes(h_n[:2], h_below)
    assert_same_bytes(c_n[:2], c_below)


def test_the_reverse_direction_is_a_forward_one_on_reversed_time():
    problem = Problem(3, 4, bidirectional=True, T=6, B=5)
    lstm, batch = problem.lstm(), problem.batch()
    backward = clstm.LSTM(3, 4)
    backward.load_state_dict(
        {name: lstm.parameters()[f"{name}_reverse"] for name in backward.parameters()},
    )
    y, _ = lstm(batch.x, batch.state)
    reversed_y, _ = backward(batch.x[::-1], tuple(array[1:] for array in batch.state))
    assert_same_bytes(y[..., 4:], reversed_y[::-1])


def test_a_stack_is_its_layers_one_after_the_other():
    problem = Problem(7, 5, num_layers=3, bidirectional=True, T=6, B=3)
    lstm, batch = problem.lstm(), problem.batch()
    x = batch.x
    for layer in range(3):
        single = clstm.LSTM(x.shape[-1], 5, bidirectional=True)
        single.load_state_dict(
            {name: lstm.parameters()[name.replace("l0", f"l{layer}")] for name in single.parameters()}
        )
        x, _ = single(x, tuple(array[2 * layer : 2 * layer + 2] for array in batch.state))
    assert_same_bytes(lstm(batch.x, batch.state)[0], x)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_batch_first_only_swaps_x_and_y(bidirectional):
    problem = Problem(3, 4, 2, bidirectional, T=6, B=5, with_lengths=True)
    batch = problem.batch()
    batch_major = problem.lstm(batch_first=True)
    y, state = problem.lstm()(batch.x, batch.state, batch.lengths)
    swapped_y, same_state = batch_major(batch.x.swapaxes(0, 1), batch.state, batch.lengths)
    assert_same_bytes(named(swapped_y, same_state), named(y.swapaxes(0, 1), state))
    assert_same_bytes(
        batch_major(np.ascontiguousarray(batch.x.swapaxes(0, 1)), batch.state, batch.lengths)[0], swapped_y
    )
    assert swapped_y.flags.c_contiguous


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_sequence_without_batch_axis_is_a_batch_of_one(batch_first, bidirectional):
    problem = Problem(3, 4, 2, bidirectional, T=6, B=1)
    batch = problem.batch()
    lstm = problem.lstm(batch_first=batch_first)
    y, (h_n, c_n) = problem.lstm()(batch.x, batch.state)
    found = lstm(batch.x[:, 0], tuple(array[:, 0] for array in batch.state))
    assert_same_bytes(named(*found), {"y": y[:, 0], "h_n": h_n[:, 0], "c_n": c_n[:, 0]})


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_large_numbers_saturate_the_gates(dtype):
    lstm = clstm.LSTM(1, 1, bias=False, dtype=dtype)
    lstm.load_state_dict({"weight_ih_l0": [[1], [1], [1], [1]], "weight_hh_l0": np.zeros((4, 1))})
    for size in (150, 1e4, 1e30):
        y, (_, c_n) = lstm(np.full((3, 1), size))
        assert c_n == 3  # i = f = g = 1, so that each step adds 1
        np.testing.assert_allclose(y[:, 0], np.tanh([1, 2, 3]), rtol=3e-7)
        y, (_, c_n) = lstm(np.full((3, 1), -size), ([[0.5]], [[0.5]]))
        limit = 1e-60 if size == 150 else 0  # sigmoid(-150) is 7e-66, which float64 holds
        assert np.all(np.abs(y) <= limit)
        assert np.abs(c_n) <= limit


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_infinite_inputs_saturate_the_gates(dtype):
    lstm = clstm.LSTM(1, 1, bias=False, dtype=dtype)
    lstm.load_state_dict({"weight_ih_l0": [[1], [1], [1], [1]], "weight_hh_l0": np.zeros((4, 1))})
    y, (_, c_n) = lstm([[np.inf], [np.inf]])
    assert c_n == 2
    y, _ = lstm([[-np.inf]])
    assert y == 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_small_inputs_have_small_outputs(dtype):
    lstm = clstm.LSTM(4, 8, bias=False, dtype=dtype, seed=0)
    x = np.random.default_rng(0).standard_normal((3, 2, 4))
    for size in (1e-6, 1e-20, 1e-30):
        y, _ = lstm((x * size).astype(dtype))
        expected, _ = reference(lstm.parameters(), (x * size).astype(dtype))
        np.testing.assert_allclose(y, expected, rtol=1e-5 if dtype == "float32" else 1e-13)


def test_zero_input_without_bias_is_zero():
    y, (h_n, c_n) = clstm.LSTM(3, 5, 2, bias=False, bidirectional=True)(np.zeros((4, 2, 3)))
    assert not y.any() and not h_n.any() and not c_n.any()


def test_every_parameter_matters():
    problem = Problem(3, 4, 2, bidirectional=True)
    lstm, batch = problem.lstm(), problem.batch()
    y, _ = lstm(batch.x)
    for name, array in lstm.state_dict().items():
        changed = problem.lstm()
        setattr(changed, name, array + 0.25)
        assert not np.array_equal(changed(batch.x)[0], y), name


def test_two_networks_with_one_seed_are_equal_and_with_another_are_not():
    def make(seed):
        return clstm.LSTM(3, 4, seed=seed).state_dict()

    assert_same_bytes(make(1), make(1))
    assert not np.array_equal(make(1)["weight_ih_l0"], make(2)["weight_ih_l0"])
    assert not np.array_equal(make(None)["weight_ih_l0"], make(None)["weight_ih_l0"])


def test_default_initial_values():
    parameters = clstm.LSTM(20, 50, 2, bidirectional=True, dtype="float64", seed=3).state_dict()
    for name, array in parameters.items():
        if "weight_ih" in name:
            bound = np.sqrt(6 / (50 + array.shape[1]))
            assert bound * 0.99 < np.abs(array).max() <= bound
            assert abs(array.mean()) < bound / 20
        elif "weight_hh" in name:
            for gate in np.split(array, 4):
                np.testing.assert_allclose(gate @ gate.T, np.eye(50), atol=1e-12)
        else:
            forget = 1.0 if "bias_ih" in name else 0.0
            assert array.tolist() == [0.0] * 50 + [forget] * 50 + [0.0] * 100


def test_pytorch_initial_values():
    for array in clstm.LSTM(20, 64, 2, init="pytorch", seed=3).state_dict().values():
        assert 0.12 < np.abs(array).max() <= 0.125
        assert abs(array.mean()) < 0.02
        assert np.unique(array).size > 0.99 * array.size


def test_results_are_new_arrays():
    problem = Problem(3, 4, 2, bidirectional=True)
    lstm, batch = problem.lstm(), problem.batch()
    y, state = lstm(batch.x, batch.state)
    kept = {name: array.copy() for name, array in named(y, state).items()}
    again = named(*lstm(2 * batch.x, state))
    assert_same_bytes(named(y, state), kept)
    for array in again.values():
        assert array.flags.writeable and array.flags.c_contiguous
        assert not any(np.shares_memory(array, other) for other in named(y, state).values())
