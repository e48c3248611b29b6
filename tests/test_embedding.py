"""Embedding: values, gradients, initial values and errors."""

import numpy as np
import pytest
from derivatives import assert_gradient, leading, randoms, seeds
from hypothesis import given
from hypothesis import strategies as st

import clstm


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
