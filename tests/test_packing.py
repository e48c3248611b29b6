"""Sequences of different lengths: padded, packed, and through a layer. PyTorch's functions are the reference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import assert_same_bytes, problems

import clstm

ragged = st.builds(
    lambda lengths, features, seed: [
        np.random.default_rng([seed, row]).standard_normal((length, *features)) for row, length in enumerate(lengths)
    ],
    st.lists(st.integers(1, 9), min_size=1, max_size=7),
    st.sampled_from([(), (1,), (3,), (2, 5)]),
    st.integers(0, 100),
)


def lengths_of(sequences):
    return [len(sequence) for sequence in sequences]


def assert_packed_equal(found, data, batch_sizes, sorted_indices, unsorted_indices):
    np.testing.assert_array_equal(found.data, data)
    for array, expected in zip(found[1:], (batch_sizes, sorted_indices, unsorted_indices), strict=True):
        if expected is None:
            assert array is None
        else:
            assert array.dtype == np.int64
            np.testing.assert_array_equal(array, expected)


# ---- the functions ----


def test_the_layout_of_packed_data():
    assert_packed_equal(clstm.pack_sequence([[1, 2, 3], [4, 5], [6]]), [1, 4, 6, 2, 5, 3], [3, 2, 1], None, None)
    unsorted = clstm.pack_sequence([[6], [1, 2, 3], [4, 5]], enforce_sorted=False)
    assert_packed_equal(unsorted, [1, 4, 6, 2, 5, 3], [3, 2, 1], [1, 2, 0], [2, 0, 1])


@settings(max_examples=100)
@given(ragged, st.booleans(), st.integers(0, 3))
def test_packing_is_pytorchs(sequences, batch_first, more):
    torch = pytest.importorskip("torch")
    rnn = torch.nn.utils.rnn
    theirs = rnn.pack_sequence([torch.from_numpy(array) for array in sequences], enforce_sorted=False)
    ours = clstm.pack_sequence(sequences, enforce_sorted=False)
    np.testing.assert_array_equal(ours.batch_sizes, theirs.batch_sizes.numpy())
    if len({*lengths_of(sequences)}) == len(sequences):  # PyTorch's order of equal lengths is not defined
        assert_packed_equal(ours, *(part.numpy() for part in theirs))
    total = max(lengths_of(sequences)) + more
    found = clstm.pad_packed_sequence(ours, batch_first, padding_value=7.0, total_length=total)
    expected = rnn.pad_packed_sequence(theirs, batch_first, padding_value=7.0, total_length=total)
    for array, tensor in zip(found, expected, strict=True):
        assert array.dtype == tensor.numpy().dtype
        np.testing.assert_array_equal(array, tensor.numpy())


@settings(max_examples=50)
@given(ragged, st.booleans(), st.sampled_from(["left", "right"]))
def test_padding_is_pytorchs(sequences, batch_first, side):
    torch = pytest.importorskip("torch")
    tensors = [torch.from_numpy(array) for array in sequences]
    expected = torch.nn.utils.rnn.pad_sequence(tensors, batch_first, -2.5, side).numpy()
    found = clstm.pad_sequence(sequences, batch_first, -2.5, side)
    assert found.flags.c_contiguous and found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@given(ragged, st.booleans())
def test_there_and_back(sequences, batch_first):
    lengths = lengths_of(sequences)
    padded = clstm.pad_sequence(sequences, batch_first, padding_value=np.nan)
    packed = clstm.pack_padded_sequence(padded, lengths, batch_first, enforce_sorted=False)
    assert len(packed.data) == sum(lengths) and not np.isnan(packed.data).any()
    repadded, found = clstm.pad_packed_sequence(packed, batch_first, padding_value=np.nan)
    assert found.tolist() == lengths
    np.testing.assert_array_equal(repadded, padded)
    for back in (clstm.unpack_sequence(packed), clstm.unpad_sequence(padded, lengths, batch_first)):
        for array, sequence in zip(back, sequences, strict=True):
            assert_same_bytes(array, sequence)
            assert not np.shares_memory(array, padded)


def test_empty_sequences_are_padded_and_unpadded():
    padded = clstm.pad_sequence([np.zeros((0, 2)), np.ones((3, 2))])
    assert padded.shape == (3, 2, 2)
    assert lengths_of(clstm.unpad_sequence(padded, [0, 3])) == [0, 3]


GOOD = clstm.pack_sequence([[1.0, 2.0], [3.0]], enforce_sorted=False)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: clstm.pack_sequence([[1], [2, 3]]),
            ValueError,
            "lengths has 2 at row 1 after 1, but lengths that fall are expected; enforce_sorted=False sorts the rows",
        ),
        (lambda: clstm.pack_sequence([[1], []]), ValueError, "lengths has 0 at row 1, but 1 to 1 is expected"),
        (
            lambda: clstm.pack_padded_sequence(np.zeros((3, 2)), [4, 1]),
            ValueError,
            "lengths has 4 at row 0, but 1 to 3 is expected: input has 3 time steps",
        ),
        (lambda: clstm.pack_padded_sequence(np.zeros((3, 2)), [3, -1]), ValueError, "lengths has -1 at row 1"),
        (lambda: clstm.pack_padded_sequence(np.zeros((3, 2)), [2.5, 1]), TypeError, "lengths has dtype float64"),
        (lambda: clstm.pack_padded_sequence(np.zeros((3, 2)), [np.nan, 1]), TypeError, "lengths has dtype float64"),
        (
            lambda: clstm.pack_padded_sequence(np.zeros((3, 2)), [3]),
            ValueError,
            r"lengths has shape \(1,\), but \(2,\) is expected: one length per row of input",
        ),
        (lambda: clstm.pack_padded_sequence(np.zeros(3), [1]), ValueError, r"\(3,\), but \(time, batch, \.\.\.\)"),
        (lambda: clstm.pack_padded_sequence(np.zeros((3, 0)), []), ValueError, "lengths is empty, but at least one"),
        (lambda: clstm.pack_sequence([]), ValueError, "sequences is empty, but at least one sequence is expected"),
        (lambda: clstm.pad_sequence([]), ValueError, "sequences is empty"),
        (
            lambda: clstm.pad_sequence([np.zeros((2, 2)), np.zeros((3, 3))]),
            ValueError,
            r"sequence 1 has shape \(3, 3\), but \(length, 2\) is expected",
        ),
        (lambda: clstm.pad_sequence([1.0]), ValueError, r"sequence 0 has shape \(\), but \(length\) is expected"),
        (lambda: clstm.pad_sequence([[1]], padding_side="up"), ValueError, "padding_side is 'up', but 'left' or"),
        (
            lambda: clstm.pad_packed_sequence(GOOD, total_length=1),
            ValueError,
            "total_length is 1, but at least 2 is expected, the longest length",
        ),
        (
            lambda: clstm.pad_packed_sequence((1, 2)),
            TypeError,
            "a builtins.tuple, but a clstm.PackedSequence is expected",
        ),
        (
            lambda: clstm.pad_packed_sequence(GOOD._replace(batch_sizes=np.array([1, 2]))),
            ValueError,
            r"batch_sizes is \[1, 2\], but numbers of at least 1 that never rise are expected",
        ),
        (lambda: clstm.pad_packed_sequence(GOOD._replace(batch_sizes=np.array([3, 0]))), ValueError, "at least 1"),
        (lambda: clstm.pad_packed_sequence(GOOD._replace(batch_sizes=np.array([2.0, 1]))), ValueError, "float64"),
        (
            lambda: clstm.pad_packed_sequence(GOOD._replace(data=np.zeros(4))),
            ValueError,
            r"data has shape \(4,\), but batch_sizes makes 3 rows",
        ),
        (lambda: clstm.pad_packed_sequence(GOOD._replace(data=3)), ValueError, r"data has shape \(\), but"),
        (
            lambda: clstm.pad_packed_sequence(GOOD._replace(unsorted_indices=np.array([0, 0]))),
            ValueError,
            r"unsorted_indices is \[0, 0\], but a permutation of 0 to 1 is expected",
        ),
        (
            lambda: clstm.pad_packed_sequence(GOOD._replace(sorted_indices="ab")),
            ValueError,
            "sorted_indices is ab, but a permutation",
        ),
        (
            lambda: clstm.pad_packed_sequence(GOOD._replace(unsorted_indices=[1.0, 0.0])),
            ValueError,
            r"unsorted_indices is \[1.0, 0.0\], but a permutation",
        ),
        (
            lambda: clstm.LSTM(1, 1)(clstm.pack_sequence(np.zeros((2, 3, 1)))._replace(unsorted_indices=[1, 0])),
            ValueError,
            r"unsorted_indices is \[1, 0\], but the inverse of sorted_indices \[0, 1\] is expected",
        ),
        (lambda: clstm.unpad_sequence(np.zeros((3, 2)), [2, 9]), ValueError, "lengths has 9 at row 1, but 0 to 3"),
        (lambda: clstm.unpad_sequence(np.zeros((3, 2)), [2]), ValueError, r"lengths has shape \(1,\), but \(2,\)"),
    ],
)
def test_what_does_not_fit_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


# ---- through a layer ----


def packed_batch(problem):
    """A batch with lengths of at least 1, and x and dy packed."""
    batch = problem.batch()
    batch = batch._replace(lengths=np.maximum(batch.lengths, 1))
    packed = [clstm.pack_padded_sequence(array, batch.lengths, enforce_sorted=False) for array in (batch.x, batch.dy)]
    return batch, *packed


@settings(max_examples=40)
@given(problems(sizes=(1, 3, 8), batches=(1, 2, 5, 9), steps=(1, 4, 9), with_lengths=True), st.booleans())
def test_packed_sequences_give_what_lengths_give(problem, batch_first):
    lstm, (batch, x, dy) = problem.lstm(batch_first=batch_first), packed_batch(problem)
    reference = problem.lstm()
    y_expected, state_expected, tape = reference.forward(batch.x, batch.state, batch.lengths)
    dx_expected, dstate_expected, grads_expected = reference.backward(tape, batch.dy, batch.dstate)
    y, state, tape = lstm.forward(x, batch.state)
    dx, dstate, grads = lstm.backward(tape, dy, batch.dstate)
    for found, expected, like in [(y, y_expected, dy), (dx, dx_expected, x)]:
        assert isinstance(found, clstm.PackedSequence)
        assert all(map(np.array_equal, found[1:], like[1:]))
        padded, lengths = clstm.pad_packed_sequence(found, total_length=problem.T)
        assert lengths.tolist() == batch.lengths.tolist()
        assert_same_bytes(padded, expected)
    assert_same_bytes(np.stack([*state, *dstate]), np.stack([*state_expected, *dstate_expected]))
    assert_same_bytes(grads, grads_expected)
    y_called, state_called = lstm(x, batch.state)
    assert_same_bytes(y_called.data, y.data)
    assert_same_bytes(np.stack(state_called), np.stack(state))


def test_a_packed_sequence_of_pytorch_goes_through_in_its_own_order():
    """PyTorch may order rows of equal length as it likes."""
    lstm = clstm.LSTM(1, 4, seed=0)
    packed = clstm.PackedSequence(np.array([[3.0], [1], [2], [4]]), [3, 1], np.array([2, 0, 1]), np.array([1, 2, 0]))
    y, (h_n, _) = lstm(packed)
    for row, sequence in enumerate([[1.0], [2.0], [3.0, 4.0]]):
        expected, _ = lstm(np.array(sequence)[:, None])
        assert_same_bytes(h_n[0, row], expected[-1])
        assert_same_bytes(clstm.unpack_sequence(y)[row], expected)


def test_packed_input_that_does_not_fit_is_refused():
    lstm = clstm.LSTM(3, 4)
    x = clstm.pack_sequence([np.zeros((2, 3)), np.zeros((1, 3))])
    for call in (lstm, lstm.forward):
        with pytest.raises(ValueError, match="lengths is given, but None is expected: a PackedSequence has its own"):
            call(x, lengths=[2, 1])
        with pytest.raises(ValueError, match=r"x.data has shape \(3,\), but \(steps, 3\) is expected"):
            call(x._replace(data=np.zeros(3)))
        with pytest.raises(ValueError, match="x has 5 features, but input_size is 3"):
            call(x._replace(data=np.zeros((3, 5))))
        with pytest.raises(ValueError, match=r"h_0 has shape \(1, 3, 4\), but \(1, 2, 4\) is expected"):
            call(x, (np.zeros((1, 3, 4)), None))
    _, _, tape = lstm.forward(x)
    with pytest.raises(ValueError, match="dy has 1 time steps and 1 rows, but 2 time steps and 2 rows are expected"):
        lstm.backward(tape, clstm.pack_sequence([np.zeros((1, 4))]))


def test_where_an_array_is_expected_a_packed_sequence_is_named_with_the_way_out():
    lstm, packed = clstm.LSTM(3, 4), clstm.pack_sequence([np.zeros((1, 3))])
    _, _, tape = lstm.forward(np.zeros((1, 1, 3)))
    message = r"is a clstm\.packing\.PackedSequence, but an array is expected: pad_packed_sequence returns one, and the"
    for call in (
        lambda: lstm.trace(packed),
        lambda: lstm.stream().step(packed),
        lambda: clstm.truncated_bptt(lstm, packed, 2),
        lambda: clstm.LSTMCell(3, 4)(packed),
        lambda: lstm(np.zeros((1, 1, 3)), lengths=packed),
    ):
        with pytest.raises(TypeError, match=message):
            call()


def test_a_packed_sequence_of_tensors():
    torch = pytest.importorskip("torch")
    lstm = clstm.LSTM(3, 4)
    for lengths in ([3, 2], [2, 3]):  # with indices only where they are not sorted
        sequences = [torch.ones(length, 3) for length in lengths]
        packed = torch.nn.utils.rnn.pack_sequence(sequences, enforce_sorted=lengths == [3, 2])
        for call in (lstm, lstm.forward, lambda x: clstm.truncated_bptt(lstm, x, 2)):
            with pytest.raises(TypeError, match=r"x is a torch\.nn\.utils\.rnn\.PackedSequence, but an array is exp"):
                call(packed)
        y, _ = lstm(clstm.PackedSequence(*packed))
        padded, lengths = torch.nn.utils.rnn.pad_packed_sequence(packed)
        assert_same_bytes(clstm.pad_packed_sequence(y)[0], lstm(padded, lengths=lengths)[0])


def test_what_is_no_array_is_refused_by_name():
    torch = pytest.importorskip("torch")
    wanted = torch.zeros(3, 2, 1, requires_grad=True)
    packed = torch.nn.utils.rnn.pack_padded_sequence(wanted, [3, 2])
    for call, name in [
        (lambda: clstm.pack_padded_sequence(wanted, [3, 2]), "input"),
        (lambda: clstm.unpad_sequence(wanted, [3, 2]), "padded_sequences"),
        (lambda: clstm.pack_sequence([np.ones((3, 1)), wanted[:, 0]]), "sequence 1"),
        (lambda: clstm.LSTM(1, 4)(clstm.PackedSequence(*packed)), "data"),
    ]:
        with pytest.raises(TypeError, match=rf"^{name} is no array: Can't call numpy\(\) on Tensor that requires grad"):
            call()
    with pytest.raises(TypeError, match="^sequence 1 is None, but an array is expected"):
        clstm.pad_sequence([np.ones(3), None])


def test_without_lengths_padding_changes_nothing_before_it():
    """As docs/ragged.md tells those who have a Sequential."""
    model = clstm.Sequential(clstm.LSTM(3, 4, 2, seed=0), clstm.Linear(4, 2, seed=0))
    x, dy = np.random.default_rng(0).standard_normal((6, 1, 3)), np.ones((6, 1, 2))
    dy[4:] = 0
    y, _, tape = model.forward(x)
    expected, _, short = model.forward(x[:4])
    np.testing.assert_allclose(y[:4], expected, rtol=1e-6)
    grads = model.backward(short, dy[:4])[2]
    for name, grad in model.backward(tape, dy)[2].items():
        np.testing.assert_allclose(grad, grads[name], rtol=1e-5, atol=1e-7)
