"""Module: parameters, state dictionaries, assignment and copies."""

import copy
import pickle

import numpy as np
import pytest

import clstm
from clstm.module import Module


def make_models():
    return [
        clstm.Linear(3, 2, seed=1),
        clstm.Linear(3, 2, bias=False, dtype="float64", seed=1),
        clstm.Embedding(5, 4, seed=1),
        clstm.Sequential(clstm.Embedding(5, 3, seed=1), clstm.Sequential(clstm.Linear(3, 2, seed=2))),
        clstm.LSTM(3, 4, num_layers=2, bidirectional=True, seed=1),
    ]


models = pytest.mark.parametrize("model", make_models(), ids=lambda model: type(model).__name__)


def assert_same_state(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype
        assert a[name].tobytes() == b[name].tobytes(), name


def test_module_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        Module()


@models
def test_parameters_are_live_and_state_dict_is_copied(model):
    model = copy.deepcopy(model)
    saved = model.state_dict()
    for array in model.parameters().values():
        array += 1.0
    for name, array in model.parameters().items():
        assert np.array_equal(array, saved[name] + array.dtype.type(1))


@models
def test_load_state_dict_restores_every_byte_and_keeps_no_reference(model):
    model = copy.deepcopy(model)
    saved = model.state_dict()
    given = {name: array.copy() for name, array in saved.items()}
    for array in model.parameters().values():
        array[...] = 0.0
    model.load_state_dict(given)
    for array in given.values():
        array[...] = 7.0
    assert_same_state(model.state_dict(), saved)


@models
def test_load_state_dict_of_its_own_live_arrays(model):
    saved = model.state_dict()
    model.load_state_dict(model.parameters())
    assert_same_state(model.state_dict(), saved)


def test_load_state_dict_exchanges_live_arrays():
    lstm = clstm.LSTM(3, 4)
    saved = lstm.state_dict()
    live = lstm.parameters()
    lstm.load_state_dict({**live, "bias_ih_l0": live["bias_hh_l0"], "bias_hh_l0": live["bias_ih_l0"]})
    assert saved["bias_ih_l0"].tolist() != saved["bias_hh_l0"].tolist()
    assert live["bias_ih_l0"].tolist() == saved["bias_hh_l0"].tolist()
    assert live["bias_hh_l0"].tolist() == saved["bias_ih_l0"].tolist()


@pytest.mark.parametrize("dtype", ["float16", "float64", "int8", "uint32", ">f4", "longdouble"])
def test_load_state_dict_converts_real_types(dtype):
    linear = clstm.Linear(3, 2)
    weight = np.arange(6).reshape(2, 3)
    linear.load_state_dict({"weight": np.asfortranarray(weight.astype(dtype)), "bias": [1, 2.5]})
    assert linear.weight.dtype == linear.bias.dtype == np.float32
    assert linear.weight.tolist() == weight.tolist()
    assert linear.bias.tolist() == [1, 2.5]


def test_load_state_dict_names_every_problem_and_changes_nothing():
    linear = clstm.Linear(3, 2)
    saved = linear.state_dict()
    with pytest.raises(ValueError) as info:
        linear.load_state_dict({"weight": np.zeros((3, 2)), "gain": [1.0], "offset": [2.0]})
    message = str(info.value)
    assert "missing 'bias'" in message
    assert "unexpected 'gain', 'offset'" in message
    assert "'weight' has shape (3, 2), but (2, 3) is expected" in message
    assert_same_state(linear.state_dict(), saved)


@pytest.mark.parametrize("bad", [np.zeros(2, complex), np.zeros(2, object), ["a", "b"], np.zeros(2, bool), None])
def test_load_state_dict_refuses_what_is_not_real_and_changes_nothing(bad):
    linear = clstm.Linear(3, 2)
    saved = linear.state_dict()
    with pytest.raises(TypeError, match="'bias' (has dtype|is None)"):
        linear.load_state_dict({"weight": np.zeros((2, 3)), "bias": bad})
    assert_same_state(linear.state_dict(), saved)


def test_load_state_dict_refuses_what_is_no_mapping():
    with pytest.raises(TypeError, match="list"):
        clstm.Linear(3, 2).load_state_dict([("weight", np.zeros((2, 3)))])


def test_load_state_dict_takes_torch_tensors():
    torch = pytest.importorskip("torch")
    theirs = torch.nn.Linear(3, 2)
    ours = clstm.Linear(3, 2)
    ours.load_state_dict(theirs.state_dict())
    x = np.ones((4, 3), np.float32)
    np.testing.assert_allclose(ours(x), theirs(torch.tensor(x)).detach().numpy(), rtol=1e-6)


@models
def test_num_parameters_counts_every_value(model):
    assert model.num_parameters == sum(array.size for array in model.state_dict().values()) > 0


@models
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_are_equal_and_share_no_memory(model, duplicate):
    twin = duplicate(model)
    assert type(twin) is type(model)
    assert twin.config() == model.config()
    assert_same_state(twin.state_dict(), model.state_dict())
    for name, array in twin.parameters().items():
        assert array.flags.writeable
        assert not np.shares_memory(array, model.parameters()[name])


@models
def test_from_config_makes_the_same_kind_of_module(model):
    twin = type(model).from_config(model.config())
    assert twin.config() == model.config()
    shapes = {name: array.shape for name, array in model.parameters().items()}
    assert {name: array.shape for name, array in twin.parameters().items()} == shapes
    config = model.config()
    assert dict(type(model).parameter_shapes(**config)) == shapes


def test_repr_is_the_call_that_makes_it():
    linear = clstm.Linear(3, 2, bias=False)
    assert repr(linear) == "Linear(in_features=3, out_features=2, bias=False, dtype='float32')"
    nested = clstm.Sequential(clstm.Embedding(5, 3), clstm.Sequential(linear))
    assert repr(nested) == (
        "Sequential(\n"
        "  (0): Embedding(num_embeddings=5, embedding_dim=3, dtype='float32')\n"
        "  (1): Sequential(\n"
        "    (0): Linear(in_features=3, out_features=2, bias=False, dtype='float32')\n"
        "  )\n"
        ")"
    )


def test_assignment_writes_into_the_live_array():
    linear = clstm.Linear(2, 1)
    array = linear.weight
    linear.weight = [[1, 2]]
    assert linear.weight is array and array.tolist() == [[1.0, 2.0]]
    linear.weight -= 1.0
    assert linear([10.0, 1.0]).tolist() == [1.0 + linear.bias[0]]
    linear.bias[:] = 5.0
    assert linear([10.0, 1.0]).tolist() == [6.0]


def test_assignment_is_checked():
    linear = clstm.Linear(2, 1, bias=False)
    with pytest.raises(ValueError, match=r"'weight' has shape \(1,\), but \(1, 2\) is expected"):
        linear.weight = [0.0]
    with pytest.raises(TypeError, match="complex128"):
        linear.weight = [[1j, 1j]]
    assert linear.bias is None
    with pytest.raises(ValueError, match="unexpected 'bias'"):
        linear.bias = [0.0]


def test_classes_of_one_name_are_told_apart_by_their_module(tmp_path):
    ours = clstm.Linear(2, 1, seed=0)

    class Linear(clstm.Linear):
        pass

    theirs = Linear(2, 1, seed=1)
    for module in (ours, theirs):
        module.save(tmp_path / "model")
        loaded = clstm.Module.load(tmp_path / "model")
        assert type(loaded) is type(module)
        assert np.array_equal(loaded.weight, module.weight)
