"""Copies of a network: in memory, in another process, in files, and in the hands of other libraries."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from problems import Problem, assert_same_bytes, called, outputs, torch_lstm

import clstm

PROBLEMS = [
    Problem(),
    Problem(5, 9, 3, bidirectional=True, dtype="float64", T=6, B=4, with_lengths=True),
    Problem(1, 1, bias=False),
    Problem(7, 13, 2, bias=False, bidirectional=True),
]
each_problem = pytest.mark.parametrize("problem", PROBLEMS)

DUPLICATES = [copy.copy, copy.deepcopy] + [
    lambda lstm, protocol=protocol: pickle.loads(pickle.dumps(lstm, protocol))
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)
]


def dropout_of(problem):
    return 0.25 if problem.num_layers > 1 else 0.0


def through_file(lstm, path):
    lstm.save(path)
    return type(lstm).load(path)


@each_problem
@pytest.mark.parametrize("duplicate", DUPLICATES)
def test_a_copy_is_equal_and_shares_nothing(problem, duplicate):
    lstm, batch = problem.lstm(dropout=dropout_of(problem)), problem.batch()
    expected = outputs(lstm, batch) if problem.num_layers == 1 else called(lstm, batch)
    copied = duplicate(lstm)
    assert type(copied) is clstm.LSTM
    assert copied.config() == lstm.config()
    assert_same_bytes(copied.state_dict(), lstm.state_dict())
    assert_same_bytes(called(copied, batch), {name: expected[name] for name in ("y", "h_n", "c_n")})
    for name, array in copied.parameters().items():
        assert not np.shares_memory(array, lstm.parameters()[name])
        array[...] = 0
    assert_same_bytes(called(lstm, batch), {name: expected[name] for name in ("y", "h_n", "c_n")})


def test_a_copy_refuses_the_tape_of_the_original():
    lstm = clstm.LSTM(3, 4)
    _, _, tape = lstm.forward(np.ones((2, 3)))
    with pytest.raises(ValueError, match="tape is .*, but one that this layer's forward returned is expected"):
        copy.deepcopy(lstm).backward(tape)


def test_a_copy_in_an_object_that_refers_to_it_twice_is_one():
    lstm = clstm.LSTM(3, 4)
    first, second = copy.deepcopy([lstm, lstm])
    assert first is second and first is not lstm
    first, second = pickle.loads(pickle.dumps([lstm, lstm]))
    assert first is second


def test_cells_are_copied_too():
    cell = clstm.LSTMCell(3, 4, seed=0)
    for duplicate in DUPLICATES:
        copied = duplicate(cell)
        assert_same_bytes(copied(np.ones(3))[0], cell(np.ones(3))[0])
        copied.weight_ih[...] = 0
        assert cell.weight_ih.any()


@each_problem
def test_a_pickle_gives_the_same_bytes_in_another_process(problem, tmp_path):
    lstm, batch = problem.lstm(), problem.batch()
    (tmp_path / "lstm.pickle").write_bytes(pickle.dumps((lstm, batch.x)))
    code = """
import pickle, sys
lstm, x = pickle.load(open(sys.argv[1], "rb"))
sys.stdout.buffer.write(lstm(x)[0].tobytes())
"""
    # the test's own directory is where the pickle finds nothing: it must need the package alone
    printed = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "lstm.pickle")], cwd=tmp_path, check=True, capture_output=True
    ).stdout
    assert printed == lstm(batch.x)[0].tobytes()


@each_problem
def test_a_state_dict_makes_an_equal_network(problem):
    lstm, batch = problem.lstm(), problem.batch()
    other = problem._replace(seed=99).lstm()
    other.load_state_dict(lstm.state_dict())
    assert_same_bytes(called(other, batch), called(lstm, batch))


@each_problem
def test_a_file_makes_an_equal_network(problem, tmp_path):
    lstm, batch = problem.lstm(batch_first=True, dropout=dropout_of(problem)), problem.batch()
    loaded = through_file(lstm, tmp_path / "lstm.safetensors")
    assert loaded.config() == lstm.config()
    assert_same_bytes(loaded.state_dict(), lstm.state_dict())
    x = batch.x.swapaxes(0, 1)
    assert_same_bytes(loaded(x, batch.state, batch.lengths)[0], lstm(x, batch.state, batch.lengths)[0])


def test_a_cell_comes_back_from_a_file(tmp_path):
    cell = clstm.LSTMCell(3, 4, bias=False, dtype="float64", seed=0)
    loaded = through_file(cell, tmp_path / "cell.safetensors")
    assert loaded.config() == cell.config()
    assert_same_bytes(loaded.state_dict(), cell.state_dict())


@each_problem
def test_the_file_opens_in_the_safetensors_library_under_the_names_of_pytorch(problem, tmp_path):
    lstm = problem.lstm()
    lstm.save(tmp_path / "lstm.safetensors")
    tensors = safetensors.numpy.load_file(tmp_path / "lstm.safetensors")
    assert_same_bytes({name: tensors[name] for name in lstm.parameters()}, lstm.state_dict())
    assert len(tensors) == len(lstm.parameters())
    with safetensors.safe_open(tmp_path / "lstm.safetensors", "numpy") as file:
        assert set(file.keys()) == set(lstm.parameters())
        assert file.metadata()["format"] == "clstm"


@each_problem
def test_pytorch_loads_the_file_and_agrees(problem, tmp_path):
    torch = pytest.importorskip("torch")
    load_file = pytest.importorskip("safetensors.torch").load_file
    lstm, batch = problem.lstm(), problem.batch()
    lstm.save(tmp_path / "lstm.safetensors")
    theirs = torch_lstm(torch, problem)
    theirs.load_state_dict(load_file(tmp_path / "lstm.safetensors"), strict=True)
    with torch.no_grad():
        y, _ = theirs(torch.from_numpy(batch.x))
    tolerance = 2e-6 if problem.dtype == "float32" else 1e-13
    np.testing.assert_allclose(lstm(batch.x)[0], y.numpy(), rtol=0, atol=tolerance)


@each_problem
def test_a_state_dict_of_pytorch_loads_and_agrees(problem):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    theirs = torch_lstm(torch, problem)
    lstm, x = problem.lstm(), problem.batch().x
    lstm.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        y, _ = theirs(torch.from_numpy(x))
    np.testing.assert_allclose(lstm(x)[0], y.numpy(), rtol=0, atol=2e-6 if problem.dtype == "float32" else 1e-13)


@each_problem
def test_repr_is_the_call_that_makes_it(problem):
    lstm = problem.lstm(dropout=dropout_of(problem))
    made = eval(repr(lstm), {"LSTM": clstm.LSTM})
    assert made.config() == lstm.config()
    assert repr(made) == repr(lstm)
    assert f"input_size={problem.input_size}" in repr(lstm) and f"hidden_size={problem.hidden_size}" in repr(lstm)


def test_num_parameters():
    assert clstm.LSTM(5, 9).num_parameters == 4 * 9 * (5 + 9 + 2)
    assert clstm.LSTM(5, 9, 2, bias=False, bidirectional=True).num_parameters == 2 * 4 * 9 * ((5 + 9) + (18 + 9))


def test_subclasses_stay_subclasses_in_copies():
    class Named(clstm.LSTM):
        """A network with an attribute of its own."""

    lstm = Named(3, 4, seed=0)
    copied = copy.deepcopy(lstm)
    assert type(copied) is Named
    assert_same_bytes(copied.state_dict(), lstm.state_dict())


def test_streams_and_tapes_are_not_pickled():
    lstm = clstm.LSTM(3, 4)
    for thing in (lstm.stream(), lstm.forward(np.ones((2, 3)))[2]):
        with pytest.raises(TypeError, match="pickle|__reduce__"):
            pickle.dumps(thing)
