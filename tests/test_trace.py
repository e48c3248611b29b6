"""What happens inside: gates, cells and outputs of a call."""

import numpy as np
import pytest
from hypothesis import given, settings
from problems import Problem, assert_same_bytes, problems, variant_problems
from reference_variants import ACTIVATIONS, sigmoid

import clstm

few = {"sizes": (1, 3, 8, 17), "batches": (1, 2, 5), "steps": (0, 1, 4, 9)}


def names_of(problem):
    suffixes = ["", "_reverse"] if problem.bidirectional else [""]
    return [f"l{layer}{suffix}" for layer in range(problem.num_layers) for suffix in suffixes]


def valid_steps(problem, batch):
    lengths = np.full(problem.B, problem.T) if batch.lengths is None else batch.lengths
    return lengths, np.arange(problem.T)[:, None] < lengths


def last_steps(array, lengths, reverse, rows):
    """The value at each row's last step in the order of processing."""
    return np.stack([array[0 if reverse else lengths[row] - 1, row] for row in rows])


def check_outputs(problem, lstm, batch, trace):
    """h of the top layer is y; h and c at the last steps are the final states; beyond the lengths all is 0."""
    y, (h_n, c_n) = lstm(batch.x, batch.state, batch.lengths)
    names, (lengths, valid) = names_of(problem), valid_steps(problem, batch)
    assert list(trace) == [f"{kind}_{name}" for name in names for kind in "ifgoch"]
    assert_same_bytes(np.concatenate([trace[f"h_{name}"] for name in names[-1 - problem.bidirectional :]], axis=2), y)
    rows = np.flatnonzero(lengths)
    for i, name in enumerate(names):
        if rows.size:
            reverse = name.endswith("reverse")
            assert_same_bytes(last_steps(trace[f"h_{name}"], lengths, reverse, rows), h_n[i, rows])
            assert_same_bytes(last_steps(trace[f"c_{name}"], lengths, reverse, rows), c_n[i, rows])
        for kind in "ifgoch":
            assert not trace[f"{kind}_{name}"][~valid].any()


def apply_output(problem, parameters, name_of_layer, c):
    if problem.variant.get("layer_norm"):
        deviation = np.sqrt(c.var() + problem.variant["layer_norm_eps"])
        c = parameters[f"weight_ln_c_{name_of_layer}"] * (c - c.mean()) / deviation
        c = c + parameters.get(f"bias_ln_c_{name_of_layer}", 0)
    name, *numbers = np.atleast_1d(np.array((problem.variant.get("activations") or {}).get("h", "tanh"), dtype=object))
    return ACTIVATIONS[name](c, *numbers)


def check_formulas(problem, lstm, batch, trace):
    """c = f c_before + i g (limited), h = o s_h(c), and the gates are what x and h make of them."""
    parameters = lstm.parameters()
    for i, name in enumerate(names_of(problem)):
        values = {kind: trace[f"{kind}_{name}"].astype(np.float64) for kind in "ifgoch"}
        reverse = name.endswith("reverse")
        for row in range(problem.B):
            length = problem.T if batch.lengths is None else batch.lengths[row]
            order = range(length)[::-1] if reverse else range(length)
            c = np.zeros(problem.hidden_size) if batch.state is None else batch.state[1][i, row].astype(np.float64)
            if batch.state is None and f"c_0_{name}" in parameters:
                c = parameters[f"c_0_{name}"].astype(np.float64)
            for t in order:
                at = {kind: array[t, row] for kind, array in values.items()}
                c = at["f"] * c + at["i"] * at["g"]
                limit = problem.variant.get("cell_clip") or np.inf
                np.testing.assert_allclose(at["c"], np.clip(c, -limit, limit), rtol=1e-5, atol=1e-5)
                c = at["c"]
                out = at["o"] * apply_output(problem, parameters, name, c)
                if f"weight_hr_{name}" in parameters:
                    limit = problem.variant.get("proj_clip") or np.inf
                    out = np.clip(parameters[f"weight_hr_{name}"].astype(np.float64) @ out, -limit, limit)
                np.testing.assert_allclose(at["h"], out, rtol=1e-5, atol=1e-5)


@settings(max_examples=50)
@given(problems(**few))
def test_values_are_those_of_the_call(problem):
    lstm, batch = problem.lstm(), problem.batch()
    trace = lstm.trace(batch.x, batch.state, batch.lengths)
    check_outputs(problem, lstm, batch, trace)
    check_formulas(problem, lstm, batch, trace)


@settings(max_examples=50)
@given(variant_problems(**few))
def test_variants(problem):
    lstm, batch = problem.lstm(recurrent_dropout=0.5), problem.batch()
    trace = lstm.trace(batch.x, batch.state, batch.lengths)
    check_outputs(problem, lstm, batch, trace)
    check_formulas(problem, lstm, batch, trace)
    for name in names_of(problem):
        i, f = trace[f"i_{name}"], trace[f"f_{name}"]
        if problem.variant.get("coupling"):
            valid = valid_steps(problem, batch)[1]
            np.testing.assert_allclose((i + f)[valid], 1, rtol=1e-5)
        if not problem.variant.get("forget_gate", True):
            assert set(f.ravel()) <= {0, 1}


@pytest.mark.parametrize("variant", [{}, {"peepholes": True}])
def test_the_gates_of_the_first_step(variant):
    problem = Problem(3, 5, T=4, B=2, dtype="float64", variant=variant)
    lstm, batch = problem.lstm(), problem.batch()
    h_0, c_0 = (array[0] for array in batch.state)
    z = batch.x[0] @ lstm.weight_ih_l0.T + lstm.bias_ih_l0 + h_0 @ lstm.weight_hh_l0.T + lstm.bias_hh_l0
    i, f, g, o = np.split(z, 4, axis=1)
    trace = lstm.trace(batch.x, batch.state)
    if variant:
        seen = lstm.weight_ch_l0
        i, f, o = i + seen[0] * c_0, f + seen[1] * c_0, o + seen[2] * trace["c_l0"][0]
    for kind, expected in {"i": sigmoid(i), "f": sigmoid(f), "g": np.tanh(g), "o": sigmoid(o)}.items():
        np.testing.assert_allclose(trace[f"{kind}_l0"][0], expected, rtol=1e-12)


@pytest.mark.parametrize("B", [1, 12])
def test_threads_that_share_units_or_rows_record_the_same(B):
    problem = Problem(9, 150, 2, bidirectional=True, T=12, B=B)
    lstm, batch = problem.lstm(), problem.batch()
    clstm.set_num_threads(1)
    alone = lstm.trace(batch.x)
    clstm.set_num_threads(4)
    assert_same_bytes(lstm.trace(batch.x), alone)


def test_batch_first_and_one_sequence_without_batch_axis():
    problem = Problem(3, 4, 2, T=6, B=3)
    batch, lengths = problem.batch(), [2, 6, 4]
    expected = problem.lstm().trace(batch.x, lengths=lengths)
    swapped = problem.lstm(batch_first=True).trace(batch.x.swapaxes(0, 1), lengths=lengths)
    alone = problem.lstm().trace(batch.x[:, 1])
    for name, array in expected.items():
        assert_same_bytes(swapped[name].swapaxes(0, 1), array)
        assert_same_bytes(alone[name], array[:, 1])


def test_dropout_does_not_act():
    problem = Problem(3, 4, 2, T=6, B=3)
    lstm, batch = problem.lstm(dropout=0.5), problem.batch()
    assert_same_bytes(lstm.trace(batch.x), problem.lstm().trace(batch.x))
    assert lstm.dropout_counter == 0


def test_bad_arguments_are_refused_as_by_a_call():
    lstm = clstm.LSTM(3, 4)
    with pytest.raises(ValueError, match="x has 2 features, but input_size is 3"):
        lstm.trace(np.zeros((5, 2)))
    with pytest.raises(ValueError, match="lengths has 6 at row 0"):
        lstm.trace(np.zeros((5, 1, 3)), lengths=[6])
