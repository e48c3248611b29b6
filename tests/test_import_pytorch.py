"""Layers from PyTorch's modules, state dicts and files, and back."""

import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from problems import REGULARIZERS, Problem, assert_same_bytes, problems, torch_lstm

import clstm

each_problem = pytest.mark.parametrize(
    "problem",
    [
        Problem(),
        Problem(5, 9, 3, bidirectional=True, dtype="float64"),
        Problem(1, 1, bias=False),
        Problem(7, 13, 2, bias=False, bidirectional=True),
    ],
)


def state_dict(problem, prefix=""):
    return {prefix + name: array for name, array in problem.lstm().state_dict().items()}


# ---- modules ----


@each_problem
@pytest.mark.parametrize("batch_first", [False, True])
def test_a_module_of_pytorch_becomes_a_layer_and_back(problem, batch_first):
    torch = pytest.importorskip("torch")
    module = torch_lstm(torch, problem)
    module.batch_first, module.dropout = batch_first, 0.25 if problem.num_layers > 1 else 0.0
    lstm = clstm.LSTM.from_torch(module)
    for name, value in lstm.config().items():
        assert value == (problem.dtype if name == "dtype" else getattr(module, name)), name
    assert_same_bytes(lstm.state_dict(), {name: tensor.numpy() for name, tensor in module.state_dict().items()})
    x = problem.batch().x.swapaxes(0, 1) if batch_first else problem.batch().x
    random_state = torch.get_rng_state()
    back = lstm.to_torch()
    assert torch.equal(torch.get_rng_state(), random_state)
    assert type(back) is torch.nn.LSTM and repr(back) == repr(module)
    for (name, parameter), expected in zip(back.named_parameters(), module.parameters(), strict=True):
        assert torch.equal(parameter, expected), name
        assert parameter.requires_grad and parameter.dtype == expected.dtype
    with torch.no_grad():
        expected = module.eval()(torch.tensor(x))[0].numpy()
        assert_same_bytes(back.eval()(torch.tensor(x))[0].numpy(), expected)
    np.testing.assert_allclose(lstm(x)[0], expected, rtol=0, atol=2e-6 if problem.dtype == "float32" else 1e-13)


def test_a_projection_comes_over_and_goes_back():
    torch = pytest.importorskip("torch")
    module = torch.nn.LSTM(3, 8, 2, bidirectional=True, proj_size=5)
    lstm = clstm.LSTM.from_torch(module)
    x = np.random.default_rng(0).standard_normal((4, 2, 3)).astype("float32")
    with torch.no_grad():
        expected = module(torch.tensor(x))[0].numpy()
    np.testing.assert_allclose(lstm(x)[0], expected, rtol=0, atol=2e-6)
    back = lstm.to_torch()
    assert repr(back) == repr(module)
    assert_same_bytes(
        {name: tensor.numpy() for name, tensor in back.state_dict().items()},
        {name: tensor.numpy() for name, tensor in module.state_dict().items()},
    )
    assert_same_bytes(clstm.LSTM.from_state_dict(module.state_dict()).state_dict(), lstm.state_dict())


def test_nothing_is_shared_with_the_module():
    torch = pytest.importorskip("torch")
    module = torch.nn.LSTM(3, 4)
    lstm = clstm.LSTM.from_torch(module)
    kept = lstm.state_dict()
    with torch.no_grad():
        module.weight_hh_l0.zero_()
        lstm.to_torch().bias_ih_l0.zero_()
    assert_same_bytes(lstm.state_dict(), kept)


def test_what_pytorch_has_not_is_refused():
    pytest.importorskip("torch")
    for name in REGULARIZERS:
        with pytest.raises(ValueError, match=f"the layer has {name}=0.3, but torch.nn.LSTM has no such options"):
            clstm.LSTM(3, 4, **{name: 0.3}).to_torch()
    with pytest.raises(ValueError, match=r"the layer has peepholes=True, coupling='input', clip=2\.0, but torch"):
        clstm.LSTM(3, 4, clip=2, coupling="input", peepholes=True).to_torch()


def test_other_modules_are_refused():
    torch = pytest.importorskip("torch")
    for module, error, message in [
        (torch.nn.GRU(3, 4), TypeError, r"module is a torch\.nn\.modules\.rnn\.GRU, but a torch.nn.LSTM is expected"),
        (None, TypeError, "module is a NoneType, but a torch.nn.LSTM is expected"),
        (clstm.LSTM(3, 4), TypeError, r"module is a clstm\.lstm\.LSTM, but a torch.nn.LSTM is expected"),
        (
            torch.nn.LSTM(3, 4).half(),
            ValueError,
            "module has dtype torch.float16, but torch.float32 or torch.float64 is expected",
        ),
    ]:
        with pytest.raises(error, match=message):
            clstm.LSTM.from_torch(module)


def test_parameters_that_require_gradients_are_loaded_and_written(tmp_path):
    torch = pytest.importorskip("torch")
    module, lstm = torch.nn.LSTM(3, 4), clstm.LSTM(3, 4)
    lstm.load_state_dict(dict(module.named_parameters()))
    lstm.bias_hh_l0 = module.bias_ih_l0
    assert_same_bytes(lstm.weight_hh_l0, module.weight_hh_l0.detach().numpy())
    assert_same_bytes(lstm.bias_hh_l0, module.bias_ih_l0.detach().numpy())
    clstm.write_safetensors(tmp_path / "file.safetensors", dict(module.named_parameters()))
    arrays, _ = clstm.read_safetensors(tmp_path / "file.safetensors")
    assert_same_bytes(arrays, {name: tensor.numpy() for name, tensor in module.state_dict().items()})
    with pytest.raises(TypeError, match="tensor 'h' is no array: Got unsupported ScalarType BFloat16"):
        clstm.write_safetensors(tmp_path / "file.safetensors", {"h": torch.zeros(1, dtype=torch.bfloat16)})
    with pytest.raises(TypeError, match="state_dict of LSTM: 'bias_hh_l0' is no array: Got unsupported .* BFloat16"):
        lstm.load_state_dict({**module.state_dict(), "bias_hh_l0": torch.zeros(16, dtype=torch.bfloat16)})


def test_a_tensor_whose_gradient_would_be_lost_is_refused_by_name():
    torch = pytest.importorskip("torch")
    x = torch.zeros(5, 2, 3, requires_grad=True)
    with pytest.raises(TypeError, match=r"x is no array: Can't call numpy\(\) on Tensor that requires grad"):
        clstm.LSTM(3, 4)(x)


# ---- state dicts and files ----


@settings(max_examples=40)
@given(problems(sizes=(1, 3, 4, 8, 12, 33)))
def test_sizes_are_read_off_a_state_dict(problem):
    lstm = clstm.LSTM.from_state_dict(state_dict(problem))
    assert lstm.config() == problem.lstm().config()
    assert_same_bytes(lstm.state_dict(), state_dict(problem))


@each_problem
@pytest.mark.parametrize("prefix", ["", "lstm.", "encoder.rnn."])
def test_a_layer_comes_from_a_file_by_prefix(problem, prefix, tmp_path):
    others = {"head.weight": np.ones((2, 3), np.float16), "encoder.rnn.norm.bias": np.ones(3, np.int8)}
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(state_dict(problem, prefix) | others, path)
    lstm = clstm.LSTM.from_state_dict(path, prefix, batch_first=True, dropout=0.5 if problem.num_layers > 1 else 0)
    expected = problem.lstm(batch_first=True, dropout=0.5 if problem.num_layers > 1 else 0)
    assert lstm.config() == expected.config()
    assert_same_bytes(lstm.state_dict(), expected.state_dict())


def test_the_files_that_models_save_are_read_too(tmp_path):
    model = clstm.Sequential(clstm.Embedding(5, 3, seed=0), clstm.LSTM(3, 4, seed=0))
    model.save(tmp_path / "model.safetensors")
    lstm = clstm.LSTM.from_state_dict(str(tmp_path / "model.safetensors"), "1.")
    assert_same_bytes(lstm.state_dict(), model[1].state_dict())


def test_tensors_and_parameters_of_pytorch_will_do():
    torch = pytest.importorskip("torch")
    model = torch.nn.ModuleDict({"lstm": torch.nn.LSTM(3, 4, 2), "head": torch.nn.Linear(4, 1)})
    expected = {name: tensor.numpy() for name, tensor in model["lstm"].state_dict().items()}
    for source in (model.state_dict(), dict(model.named_parameters())):
        assert_same_bytes(clstm.LSTM.from_state_dict(source, "lstm.").state_dict(), expected)


def test_half_precision_becomes_float32():
    halves = {name: array.astype(np.float16) for name, array in state_dict(Problem()).items()}
    lstm = clstm.LSTM.from_state_dict(halves)
    assert lstm.dtype == np.float32
    assert_same_bytes(lstm.weight_hh_l0, halves["weight_hh_l0"].astype(np.float32))


def test_pytorch_is_not_imported(tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(state_dict(Problem()), path)
    code = "import sys, clstm; clstm.LSTM.from_state_dict(sys.argv[1]); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code, path], check=True)


ARRAYS = state_dict(Problem(3, 4, 2, bidirectional=True))


def without(*names):
    return {name: array for name, array in ARRAYS.items() if name not in names}


def zeros(*shape):
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (without("bias_hh_l0"), ValueError, "missing 'bias_hh_l0'$"),
        (without("weight_hh_l0"), ValueError, "missing 'weight_hh_l0'$"),
        (without("weight_hh_l1_reverse"), ValueError, "missing 'weight_hh_l1_reverse'$"),
        (ARRAYS | {"weight_ih_l3": zeros(16, 8)}, ValueError, "missing 'weight_ih_l2', .* unexpected 'weight_ih_l3'"),
        (ARRAYS | {"weight_ih_l01": zeros(16, 8)}, ValueError, "unexpected 'weight_ih_l01'"),
        (ARRAYS | {"gain": zeros(16)}, ValueError, "unexpected 'gain'$"),
        (
            ARRAYS | {"bias_ih_l0": zeros(15), "weight_ih_l1": zeros(16, 4)},
            ValueError,
            r"'bias_ih_l0' has shape \(15,\), but \(16,\) is expected; 'weight_ih_l1' has shape \(16, 4\), but "
            r"\(16, 8\) is expected",
        ),
        (ARRAYS | {"weight_ih_l0": zeros(12, 3)}, ValueError, r"'weight_ih_l0' has shape \(12, 3\), but \(16, 3\)"),
        (ARRAYS | {"weight_ih_l0": zeros(16)}, ValueError, r"'weight_ih_l0' has shape \(16,\), but a matrix is"),
        (ARRAYS | {"weight_ih_l0": zeros(0, 2**40)}, ValueError, r"'weight_ih_l0' has shape \(0, 1099511627776\)"),
        (
            {"weight_ih_l0": zeros(12, 3), "weight_hh_l0": zeros(12, 4)},
            ValueError,
            r"'weight_hh_l0' has shape \(12, 4\), but an LSTM of hidden_size 4 has 16 rows, and a GRU 12",
        ),
        (
            {"weight_ih_l0": zeros(4, 3), "weight_hh_l0": zeros(4, 4)},
            ValueError,
            "of hidden_size 4 has 16 rows, and an RNN 4$",
        ),
        ({"weight_ih_l0": zeros(9, 3), "weight_hh_l0": zeros(9, 4)}, ValueError, "of hidden_size 4 has 16 rows$"),
        (ARRAYS | {"weight_hr_l0": zeros(4)}, ValueError, r"'weight_hr_l0' has shape \(4,\), but a matrix"),
        (
            {"weight_ih_l0": zeros(16, 3), "weight_hh_l0": zeros(16, 4), "weight_hr_l0": zeros(4, 4)},
            ValueError,
            "proj_size is 4, but less than hidden_size 4 is expected",
        ),
        ({"weight_ih_l0": zeros(0, 3), "weight_hh_l0": zeros(0, 0)}, ValueError, "hidden_size is 0, but at least 1"),
        (ARRAYS | {"bias_ih_l0": np.zeros(16, np.int8)}, TypeError, "'bias_ih_l0' has dtype int8, but float32"),
        (ARRAYS | {"bias_ih_l0": [[1], [2, 3]]}, ValueError, "'bias_ih_l0' is no array"),
        ({}, ValueError, "state_dict has no 'weight_ih_l0'; no other prefix has one$"),
        (
            {"b.weight_ih_l0": 1, "a.lstm.weight_ih_l0": 1},
            ValueError,
            "no 'weight_ih_l0'; the prefixes of its LSTMs are 'a.lstm.', 'b.'$",
        ),
    ],
)
def test_what_is_no_lstm_is_refused_by_name(source, error, message):
    with pytest.raises(error, match=message):
        clstm.LSTM.from_state_dict(source)


def test_wrong_kinds_of_source_and_prefix_are_refused(tmp_path):
    with pytest.raises(TypeError, match="prefix is a int, but a str is expected"):
        clstm.LSTM.from_state_dict(ARRAYS, 5)
    with pytest.raises(TypeError, match="source is a list, but a mapping of names to arrays or a path is expected"):
        clstm.LSTM.from_state_dict([1, 2])
    with pytest.raises(FileNotFoundError, match="model.safetensors"):
        clstm.LSTM.from_state_dict(tmp_path / "model.safetensors")
    with pytest.raises(IsADirectoryError):
        clstm.LSTM.from_state_dict(tmp_path)


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(ARRAYS, path)
    whole = path.read_bytes()
    for damaged in (b"", whole[:7], whole[:100], whole[:-1], b"PK\3\4" + whole, whole[8:], b"\xff" * 100):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"model.safetensors' is not a valid safetensors file"):
            clstm.LSTM.from_state_dict(path)


def test_types_that_numpy_lacks_are_refused_by_name(tmp_path):
    torch = pytest.importorskip("torch")
    save_file = pytest.importorskip("safetensors.torch").save_file
    tensors = {"lstm." + name: torch.from_numpy(array).bfloat16() for name, array in ARRAYS.items()}
    path = tmp_path / "model.safetensors"
    save_file(tensors, path)
    for source in (path, tensors):
        with pytest.raises(TypeError, match=r"'lstm\.\w+' .*(BF16, which numpy lacks|BFloat16|bfloat16, but float32)"):
            # the last, where a package has taught numpy the type
            clstm.LSTM.from_state_dict(source, "lstm.")
