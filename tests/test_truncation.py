"""Truncated backpropagation through time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import Problem, assert_same_bytes, problems

import clstm


def recurrent(problem, **options):
    return problem.lstm(**options), problem.batch()


@settings(max_examples=40)
@given(
    problems(sizes=(1, 3, 8), batches=(1, 2, 5), steps=(1, 4, 9, 21), bidirectional=False),
    st.integers(1, 10),
    st.integers(0, 12),
    st.booleans(),
)
def test_chunks_are_the_whole_sequence_cut(problem, steps, burn_in, batch_first):
    """Outputs and the last state are those of one call; a chunk's gradients are those of its steps alone."""
    lstm, batch = recurrent(problem, batch_first=batch_first)
    plain, burn_in = problem.lstm(), min(burn_in, problem.T - 1)
    expected, final = plain(batch.x, batch.state, batch.lengths)
    x = batch.x.swapaxes(0, 1) if batch_first else batch.x
    stop = burn_in
    for chunk in clstm.truncated_bptt(lstm, x, steps, burn_in=burn_in, state=batch.state, lengths=batch.lengths):
        start, stop = chunk.time.start, chunk.time.stop
        assert start in range(burn_in, problem.T, steps) and stop == min(start + steps, problem.T)
        assert_same_bytes(chunk.y.swapaxes(0, 1) if batch_first else chunk.y, expected[chunk.time])
        _, _, grads = lstm.backward(chunk.tape, chunk.y)
        lengths = None if batch.lengths is None else batch.lengths - start
        before = plain(batch.x[:start], batch.state, None if lengths is None else np.minimum(batch.lengths, start))[1]
        lengths = None if lengths is None else np.clip(lengths, 0, stop - start)
        y, _, tape = plain.forward(batch.x[chunk.time], before, lengths)
        assert_same_bytes(grads, plain.backward(tape, y)[2])
    assert stop == problem.T
    assert_same_bytes(np.stack(chunk.state), np.stack(final))


def test_gradients_are_those_of_pytorch_with_detached_states():
    torch = pytest.importorskip("torch")
    lstm, batch = recurrent(Problem(3, 8, 2, T=20, dtype="float64", with_state=False))
    module, x, state = lstm.to_torch(), torch.from_numpy(batch.x), None
    with torch.no_grad():
        _, state = module(x[:5])
    for chunk in clstm.truncated_bptt(lstm, batch.x, 6, burn_in=5):
        _, _, grads = lstm.backward(chunk.tape, chunk.y, chunk.state)
        y, state = module(x[chunk.time], state)
        module.zero_grad()
        ((y.square().sum() + sum(part.square().sum() for part in state)) / 2).backward()
        state = tuple(part.detach() for part in state)
        for name, parameter in module.named_parameters():
            np.testing.assert_allclose(grads[name], parameter.grad.numpy(), rtol=1e-10, atol=1e-12)


def test_the_next_chunk_uses_updated_weights():
    lstm, batch = recurrent(Problem(T=6))
    chunks = clstm.truncated_bptt(lstm, batch.x, 3)
    first = next(chunks)
    lstm.weight_hh_l0 *= 2
    second = next(chunks)
    assert_same_bytes(second.y, lstm(batch.x[3:], first.state)[0])


def test_whole_models_and_tokens():
    tokens = np.random.default_rng(0).integers(0, 5, (7, 2))
    for batch_first in (False, True):
        body = clstm.Sequential(clstm.LSTM(3, 4, batch_first=batch_first, seed=0))
        model = clstm.Sequential(clstm.Embedding(5, 3, seed=0), body, clstm.Linear(4, 5, seed=0))
        x = tokens.T if batch_first else tokens
        chunks = list(clstm.truncated_bptt(model, x, 3, burn_in=1))
        assert [(chunk.time.start, chunk.time.stop) for chunk in chunks] == [(1, 4), (4, 7)]
        y = np.concatenate([chunk.y for chunk in chunks], axis=int(batch_first))
        assert_same_bytes(y, model(x)[0][:, 1:] if batch_first else model(x)[0][1:])


@pytest.mark.parametrize("batch_first", [False, True])
def test_one_sequence_without_batch_axis(batch_first):
    lstm, batch = recurrent(Problem(T=7), batch_first=batch_first)
    x = batch.x[:, 0]
    chunks = list(clstm.truncated_bptt(lstm, x, 3, lengths=[5]))
    assert_same_bytes(np.concatenate([chunk.y for chunk in chunks]), lstm(x, lengths=[5])[0])


def test_burn_in_records_nothing_and_drops_nothing():
    lstm, batch = recurrent(Problem(3, 8, 2, T=6, with_state=False), dropout=0.9)
    chunk = next(clstm.truncated_bptt(lstm, batch.x, 3, burn_in=3))
    assert lstm.dropout_counter == 1 and chunk.tape.T == 3
    again = recurrent(Problem(3, 8, 2, T=6, with_state=False), dropout=0.9)[0]
    assert_same_bytes(chunk.y, again.forward(batch.x[3:], again(batch.x[:3])[1])[0])


@pytest.mark.parametrize(
    ("model", "options", "error", "message"),
    [
        (clstm.LSTM(3, 4), {"steps": 0}, ValueError, "steps is 0, but at least 1 is expected"),
        (clstm.LSTM(3, 4), {"steps": 2.5}, TypeError, "steps is 2.5, but an integer is expected"),
        (clstm.LSTM(3, 4), {"steps": 2, "burn_in": 5}, ValueError, "burn_in is 5, but at most 4 is expected"),
        (clstm.LSTM(3, 4), {"steps": 2, "burn_in": -1}, ValueError, "burn_in is -1, but at least 0 is expected"),
        (clstm.LSTM(3, 4), {"steps": 2, "lengths": [6, 1]}, ValueError, "lengths has 6 at row 0, but 0 to 5"),
        (clstm.LSTM(3, 4, bidirectional=True), {"steps": 2}, ValueError, "bidirectional is True, but False is"),
        (clstm.Sequential(clstm.LSTM(3, 4)), {"steps": 2, "lengths": [5, 1]}, TypeError, "a Sequential takes none"),
        (clstm.Sequential(), {"steps": 2}, ValueError, "model has no parts, but at least one is expected"),
        (clstm.Linear(3, 4), {"steps": 2}, TypeError, "model is a Linear, but an LSTM or a Sequential is expected"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_runs(model, options, error, message):
    with pytest.raises(error, match=message):
        clstm.truncated_bptt(model, np.zeros((5, 2, 3)), **options)
