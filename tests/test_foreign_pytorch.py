"""PyTorch's own vectors, computed in float64: modules, state dicts, files and a training run. See foreign.py."""

import numpy as np
import pytest
from foreign import CASES, Case

import clstm

TORCH = CASES / "6_generated/torch"
FORWARD, GRADIENTS = {"float32": 2e-6, "float64": 1e-13}, {"float32": 2e-6, "float64": 1e-12}


def part(case, prefix):
    """The arrays whose names start so, by the rest of their names."""
    return {name.removeprefix(prefix): array for name, array in case.inputs.items() if name.startswith(prefix)}


def names():
    return sorted(path.stem for path in TORCH.glob("*.npz"))


def assert_within(found, expected, tolerance):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", names())
def test_forward_and_backward(name, dtype):
    case = Case(f"6_generated/torch/{name}.npz")
    lstm = clstm.LSTM.from_state_dict({key: array.astype(dtype) for key, array in part(case, "param.").items()})
    assert {
        key: value for key, value in case.meta["attrs"].items() if key in lstm.config()
    }.items() <= lstm.config().items()
    state = tuple(case.inputs.get(key) for key in ("h_0", "c_0"))
    y, (h_n, c_n), tape = lstm.forward(case.inputs["input"], state, case.inputs.get("lengths"))
    for key, array in {"output": y, "h_n": h_n, "c_n": c_n}.items():
        assert_within(array, case.given[key], FORWARD[dtype])
    dy, *dstate = (case.inputs[f"grad_{key}"] for key in ("output", "h_n", "c_n"))
    dx, (dh_0, dc_0), grads = lstm.backward(tape, dy, tuple(dstate))
    found = {"input": dx, "h_0": dh_0, "c_0": dc_0}
    for key, expected in case.given.items():
        if key.startswith("grad"):
            assert_within((found | grads)[key.removeprefix("grad").lstrip("_.")], expected, GRADIENTS[dtype])


@pytest.mark.parametrize("name", sorted(path.stem for path in TORCH.glob("*.safetensors")))
def test_files_of_state_dicts(name):
    case = Case(f"6_generated/torch/{name}.npz")
    arrays, _ = clstm.read_safetensors(TORCH / f"{name}.safetensors")
    (prefix,) = {key.removesuffix("weight_ih_l0") for key in arrays if key.endswith("weight_ih_l0")}
    lstm = clstm.LSTM.from_state_dict(TORCH / f"{name}.safetensors", prefix)
    state = tuple(case.inputs.get(key) for key in ("h_0", "c_0"))
    assert_within(lstm(case.inputs["input"], state)[0], case.given["output"], FORWARD["float32"])


@pytest.mark.parametrize("name", sorted(path.stem for path in TORCH.glob("*.pt")))
def test_state_dicts_that_pytorch_saved(name):
    torch = pytest.importorskip("torch")
    saved = torch.load(TORCH / f"{name}.pt", weights_only=True)
    (prefix,) = {key.removesuffix("weight_ih_l0") for key in saved if key.endswith("weight_ih_l0")}
    lstm = clstm.LSTM.from_state_dict(saved, prefix)
    expected = clstm.LSTM.from_state_dict(TORCH / f"{name}.safetensors", prefix)
    assert lstm.state_dict().keys() == expected.state_dict().keys()
    for key, array in lstm.state_dict().items():
        assert array.tobytes() == expected.state_dict()[key].tobytes()


def test_the_golden_table_of_the_cpp_interface():
    case = Case("3_golden/torchcpp_CheckOutputValuesMatchPyTorch.npz")
    lstm = clstm.LSTM.from_state_dict({key: array for key, array in case.inputs.items() if key.endswith("_l0")})
    y, (h_n, c_n) = lstm(case.inputs["input"])
    case.assert_close(output=y, h_n=h_n, c_n=c_n)


def test_two_steps_of_sgd():
    torch = pytest.importorskip("torch")
    from clstm.torch import LSTM

    case = Case("3_golden/traj_torch_lstm_single.npz")
    first = part(case, "param0.")
    lstm = LSTM(2, first["weight_hh_l0"].shape[1], batch_first=True)
    lstm.load_state_dict({key: torch.from_numpy(array) for key, array in first.items()})
    optimizer = torch.optim.SGD(lstm.parameters(), lr=0.1)
    for step in range(2):
        y, _ = lstm(torch.from_numpy(case.inputs[f"x_{step}"]))
        case.assert_close(**{f"output_{step}": y.detach().numpy()})
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(y, torch.from_numpy(case.inputs[f"label_{step}"])).backward()
        optimizer.step()
        if step == 0:
            for key, parameter in lstm.named_parameters():
                case.assert_close(**{f"param_after_step1.{key}": parameter.detach().numpy()})


def test_a_training_run_of_200_steps():
    """The loss curve and the last weights, through the module for PyTorch and through this library's own parts."""
    torch = pytest.importorskip("torch")
    import clstm.torch

    case = Case("6_generated/training/airline_adam.npz")
    x, target = case.inputs["x"].astype(np.float64), case.inputs["target"].astype(np.float64)
    rnn, head = part(case, "param0.rnn."), part(case, "param0.head.")
    module = torch.nn.ModuleDict({"rnn": clstm.torch.LSTM(1, 16, batch_first=True), "head": torch.nn.Linear(16, 1)})
    module.load_state_dict({key: torch.from_numpy(array) for key, array in part(case, "param0.").items()})
    module.double()  # in float32, rounding alone grows to 0.4% of the loss
    adam = torch.optim.Adam(module.parameters(), lr=0.01)
    ours = [
        clstm.LSTM.from_state_dict({key: array.astype(np.float64) for key, array in rnn.items()}, batch_first=True),
        clstm.Linear(16, 1, dtype=np.float64),
    ]
    ours[1].load_state_dict(head)
    optimizers = [clstm.Adam(model, lr=0.01) for model in ours]
    for step in range(200):
        adam.zero_grad()
        y = module["head"](module["rnn"](torch.from_numpy(x))[0][:, -1])
        loss = torch.nn.functional.mse_loss(y, torch.from_numpy(target))
        loss.backward()
        adam.step()
        assert loss.item() == pytest.approx(case.given["loss"][step], rel=1e-9)

        hidden, _, tape = ours[0].forward(x)
        y, head_tape = ours[1].forward(hidden[:, -1])
        loss, dy = clstm.mse_loss(y, target)
        assert loss == pytest.approx(case.given["loss"][step], rel=1e-9)
        dlast, head_grads = ours[1].backward(head_tape, dy)
        dhidden = np.zeros_like(hidden)
        dhidden[:, -1] = dlast
        for optimizer, grads in zip(optimizers, (ours[0].backward(tape, dhidden)[2], head_grads), strict=True):
            optimizer.step(grads)
    own = {f"rnn.{key}": array for key, array in ours[0].state_dict().items()}
    own |= {f"head.{key}": array for key, array in ours[1].state_dict().items()}
    for found in (own, {key: tensor.numpy() for key, tensor in module.state_dict().items()}):
        case.assert_close(**{f"final.{key}": array for key, array in found.items()})
