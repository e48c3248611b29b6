"""Vectors and models of other systems, through the public importers and the public API. See foreign.py."""

import json

import numpy as np
import pytest
from foreign import CASES, Case

import clstm

# ---- audio ----


def test_nam():
    case = Case("4_models/nam/nam_lstm.npz")
    model = clstm.from_nam(CASES / "4_models/nam/lstm.nam")
    case.assert_close(model_output=model.process(case.inputs["x"][:, 0])[:, :, None])


def test_nam_without_its_trained_state_is_another_model():
    case = Case("4_models/nam/nam_lstm.npz")
    model = clstm.from_nam(CASES / "4_models/nam/lstm.nam")
    stateless = clstm.AudioModel(model.parts).process(case.inputs["x"][:, 0])
    assert np.abs(stateless - case.given["model_output"][:, :, 0]).max() > 1e-2


@pytest.mark.parametrize("name", ["keras_lstm", "keras_lstm_1d", "lstm_torch"])
def test_rtneural(name):
    case = Case(f"4_models/rtneural/rtneural_{name}.npz")
    model = clstm.from_rtneural(CASES / f"4_models/rtneural/{name.removeprefix('keras_')}.json")
    expected = case.given["model_output"]
    case.assert_close(model_output=model.process(case.inputs["x"].reshape(-1)).reshape(expected.shape))


# ---- ONNX ----


def run_onnx(path, case, names=None):
    """Outputs of a model for the inputs of a case that it takes."""
    pytest.importorskip("onnx", reason="onnx is not installed")
    model = clstm.from_onnx(CASES / path)
    return model({name: case.inputs[name] for name in model.inputs})


def stems(pattern):
    return sorted(path.stem for path in CASES.glob(pattern))


ONNX_NODES, ONNX_GENERATED = stems("1_onnx_node/*.onnx"), stems("6_generated/onnx/*.onnx")


@pytest.mark.parametrize("name", ONNX_NODES)
def test_onnx_node(name):
    case = Case(f"1_onnx_node/{name}.npz")
    case.assert_close(**run_onnx(f"1_onnx_node/{name}.onnx", case))


@pytest.mark.parametrize("name", ONNX_GENERATED)
def test_onnx_generated(name):
    case = Case(f"6_generated/onnx/{name}.npz")
    found = run_onnx(f"6_generated/onnx/{name}.onnx", case)
    case.assert_close(**found)
    others = case.meta["err_vs_onnxruntime"] or case.meta["err_vs_onnx_reference"]
    for key, array in found.items():
        assert np.abs(array - case.given[key]).max() <= 4 * others, key


@pytest.mark.parametrize("path", sorted(CASES.glob("6_generated/torch_onnx_export/*.onnx")), ids=lambda path: path.stem)
def test_torch_export(path):
    case = Case(f"6_generated/torch_onnx_export/{path.stem.rpartition('_')[0]}.npz")
    case.assert_close(**run_onnx(path, case))


def test_silero_vad_v3():
    """Two trained LSTMs inside a large graph; their state is carried from chunk to chunk."""
    pytest.importorskip("onnx", reason="onnx is not installed")
    case = Case("4_models/silero_vad_v3/silero_v3_lstm2.npz")
    first, second = clstm.from_onnx(CASES / "4_models/silero_vad_v3/silero_vad_v3_1.onnx").lstms.values()
    states, y = [None, None], []
    for i, x in enumerate(case.inputs["x"]):
        x, states[0] = first(x, states[0])
        x, states[1] = second(x, states[1])
        y.append(x)
        h_n, c_n = (np.concatenate(arrays) for arrays in zip(*states, strict=True))
        np.testing.assert_allclose(h_n, case.given["h_n"][i], rtol=1e-5, atol=2e-5)
        np.testing.assert_allclose(c_n, case.given["c_n"][i], rtol=1e-5, atol=2e-4)  # |c| goes beyond 100
    case.assert_close(y=np.stack(y))


@pytest.mark.parametrize("samples", [512, 1536, 4000])
def test_silero_vad_v3_end_to_end(samples):
    """Audio in, probability out: ONNX Runtime's numbers."""
    pytest.importorskip("onnx", reason="onnx is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    path = CASES / "4_models/silero_vad_v3/silero_vad_v3_1.onnx"
    speech = Case("4_models/nam/nam_lstm.npz").inputs["x"][4096:, :, 0].reshape(1, -1)[:, :samples]
    rng = np.random.default_rng(0)
    h0, c0 = (rng.standard_normal((2, 1, 64)).astype(np.float32) for _ in "hc")
    inputs = {"input": speech, "h0": h0, "c0": c0}
    session = runtime.InferenceSession(str(path))
    for found, expected in zip(clstm.from_onnx(path)(inputs).values(), session.run(None, inputs), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=5e-5)


# ---- Keras ----

KERAS_FILES = stems("6_generated/keras/*.keras")


@pytest.mark.parametrize("ending", ["keras", "h5"])
@pytest.mark.parametrize("name", KERAS_FILES)
def test_keras_model(name, ending):
    case = Case(f"6_generated/keras/{name}.npz")
    y = clstm.from_keras(CASES / f"6_generated/keras/{name}.{ending}")(case.inputs["x"])
    outputs = y if isinstance(y, tuple) else (y,)
    assert len(outputs) == len(case.given)
    case.assert_close(**{f"y{i}": output for i, output in enumerate(outputs)})


@pytest.mark.parametrize("name", KERAS_FILES)
def test_keras_weights(name):
    """The same layers as from the model's other files."""
    found, expected = (
        clstm.from_keras(CASES / f"6_generated/keras/{name}.{ending}") for ending in ("weights.h5", "h5")
    )
    assert found.lstms.keys() == expected.lstms.keys()
    for layer, lstm in found.lstms.items():
        for parameter, array in lstm.state_dict().items():
            np.testing.assert_array_equal(array, getattr(expected.lstms[layer], parameter))


def keras_layer(case, folder, **config):
    """A model of one layer with the arrays of a case, by way of a file."""
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    arrays = [case.inputs[name] for name in ("kernel", "recurrent_kernel", "bias")]
    config = {"name": "rnn", "units": len(arrays[1])} | config
    layers = [{"class_name": "LSTM", "config": config}]
    if case.attrs.get("bidirectional"):
        layers = [{"class_name": "Bidirectional", "config": {"name": "rnn", "layer": layers[0]}}]
        arrays *= 2
    with h5py.File(folder / "m.h5", "w") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": {"layers": layers}})
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = ["rnn"]
        names = [str(i) for i in range(len(arrays))]
        group.create_group("rnn").attrs["weight_names"] = names
        for name, array in zip(names, arrays, strict=True):
            group["rnn"][name] = array
    return clstm.from_keras(folder / "m.h5")


@pytest.mark.parametrize("name", ["correctness", "go_backwards"])
def test_keras_golden(tmp_path, name):
    case = Case(f"3_golden/keras3_{name}.npz")
    case.assert_close(y=keras_layer(case, tmp_path, go_backwards=case.attrs["go_backwards"])(case.inputs["x"]))


def test_keras_golden_return_state(tmp_path):
    case = Case("3_golden/keras3_bidirectional_return_state.npz")
    outputs = keras_layer(case, tmp_path, return_state=True)(case.inputs["x"])
    case.assert_close(**dict(zip(("y", "h_fw", "c_fw", "h_bw", "c_bw"), outputs, strict=True)))


def test_keras_golden_mask(tmp_path):
    """The layer that masks is left out of the case: its mask is given."""
    from clstm.interop.keras_lstm import Tensor

    case = Case("3_golden/keras3_mask_last.npz")
    model = keras_layer(case, tmp_path)
    (y,) = model._recurrent["rnn"](Tensor(case.inputs["x"], case.inputs["mask"]))
    case.assert_close(y=y.array)


def test_keras_golden_gradients(tmp_path):
    """The forward pass and its gradient, computed by TensorFlow."""
    case = Case("3_golden/nntrainer_lstm_multi_step_seq.npz")
    (lstm,) = keras_layer(case, tmp_path).lstms.values()
    y, _, tape = lstm.forward(case.inputs["x"])
    dx, _, grads = lstm.backward(tape, np.full_like(y, 2.0))
    names = {"grad_kernel": "weight_ih_l0", "grad_recurrent_kernel": "weight_hh_l0", "grad_bias": "bias_ih_l0"}
    case.assert_close(y=y, grad_x=dx, **{name: grads[parameter].T for name, parameter in names.items()})


# ---- PyTorch's numbers, through the layer itself ----


def torch_lstm(case, prefix, **options):
    """The LSTM with the parameters of a case."""
    values = {name.removeprefix(prefix): array for name, array in case.inputs.items() if name.startswith(prefix)}
    values = {name: array for name, array in values.items() if name.startswith(("weight", "bias"))}
    attrs = case.attrs
    lstm = clstm.LSTM(
        values["weight_ih_l0"].shape[1],
        values["weight_ih_l0"].shape[0] // 4,
        attrs.get("num_layers", 1),
        bias="bias_ih_l0" in values,
        bidirectional=attrs.get("bidirectional", False),
        batch_first=attrs.get("batch_first", False),
        proj_size=attrs.get("proj_size", 0),
        **options,
    )
    lstm.load_state_dict(values)
    return lstm


def state_of(inputs):
    return (inputs["h_0"], inputs["c_0"]) if "h_0" in inputs else None


@pytest.mark.parametrize("name", ["candle_onnx_lstm", "torchcpp_CheckOutputValuesMatchPyTorch"])
def test_torch_golden(name):
    case = Case(f"3_golden/{name}.npz")
    y, (h_n, c_n) = torch_lstm(case, "")(case.inputs["input"], state_of(case.inputs))
    case.assert_close(output=y, h_n=h_n, c_n=c_n)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", stems("6_generated/torch/*.npz"))
def test_torch_forward_and_backward(name, dtype):
    case = Case(f"6_generated/torch/{name}.npz")
    inputs, lstm = case.inputs, torch_lstm(case, "param.", dtype=dtype)
    y, (h_n, c_n), tape = lstm.forward(inputs["input"], state_of(inputs), inputs.get("lengths"))
    dx, (dh_0, dc_0), grads = lstm.backward(tape, inputs["grad_output"], (inputs["grad_h_n"], inputs["grad_c_n"]))
    found = {"output": y, "h_n": h_n, "c_n": c_n, "grad_input": dx, "grad_h_0": dh_0, "grad_c_0": dc_0}
    found |= {f"grad.{parameter}": grad for parameter, grad in grads.items()}
    case.assert_close(**{key: array for key, array in found.items() if key in case.given})
    if dtype == "float64":
        for key in case.given:
            np.testing.assert_allclose(found[key], case.given[key], rtol=1e-11, atol=1e-12, err_msg=key)


def test_torch_training_steps():
    case = Case("3_golden/traj_torch_lstm_single.npz")
    lstm = torch_lstm(case, "param0.")
    optimizer = clstm.SGD(lstm, lr=0.1)
    for step in (0, 1):
        y, _, tape = lstm.forward(case.inputs[f"x_{step}"])
        case.assert_close(**{f"output_{step}": y})
        _, dy = clstm.mse_loss(y, case.inputs[f"label_{step}"])
        optimizer.step(lstm.backward(tape, dy)[2])
        if not step:
            case.assert_close(**{f"param_after_step1.{name}": array for name, array in lstm.state_dict().items()})


def test_torch_training_run():
    """200 steps of Adam on monthly airline passengers: the loss of every step, and the weights at the end."""
    case = Case("6_generated/training/airline_adam.npz")
    lstm, head = torch_lstm(case, "param0.rnn.", dtype="float64"), clstm.Linear(16, 1, dtype="float64")
    lstm.batch_first = True
    head.load_state_dict({name: case.inputs[f"param0.head.{name}"] for name in ("weight", "bias")})
    optimizers = [clstm.Adam(part, lr=0.01) for part in (lstm, head)]
    losses = []
    for _ in range(200):
        y, _, tape = lstm.forward(case.inputs["x"])
        z, head_tape = head.forward(y[:, -1])
        loss, dz = clstm.mse_loss(z, case.inputs["target"])
        dlast, head_grads = head.backward(head_tape, dz)
        dy = np.zeros_like(y)
        dy[:, -1] = dlast
        optimizers[0].step(lstm.backward(tape, dy)[2])
        optimizers[1].step(head_grads)
        losses.append(loss)
    np.testing.assert_allclose(losses, case.given["loss"], rtol=1e-9)
    for part, module in (("rnn", lstm), ("head", head)):
        for name, array in module.state_dict().items():
            np.testing.assert_allclose(array, case.given[f"final.{part}.{name}"], rtol=1e-8, atol=1e-10, err_msg=name)


def test_tflite_golden():
    """Weights stand in the case as ONNX stacks them."""
    from clstm.interop.onnx_file import Node
    from clstm.interop.onnx_lstm import lstms_of, run_lstm

    case = Case("3_golden/tflite_uniseq_NoCifgNoPeepholeNoProjectionNoClippingLstmTest.npz")
    node = Node("rnn", "LSTM", ("X", "W", "R", "B"), ("Y",), {}, 14)
    Y, _, _ = run_lstm(node, lstms_of(node, case.inputs), {"X": case.inputs["X"]})
    case.assert_close(Y=Y)
