"""Between PyTorch and this library. Nothing else here imports torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .state_dicts import refuse_projection

if TYPE_CHECKING:
    from .lstm import LSTM as NumpyLSTM


def config_and_weights(module: torch.nn.LSTM) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the arguments of the `clstm.LSTM` that equals a `torch.nn.LSTM`, and the weights."""
    if not isinstance(module, torch.nn.LSTM):
        raise TypeError(f"module is a {type(module).__name__}, but a torch.nn.LSTM is expected")
    weights = {name: getattr(module, name).detach().cpu() for names in module._all_weights for name in names}
    refuse_projection(module.proj_size)
    config = {
        "input_size": module.input_size,
        "hidden_size": module.hidden_size,
        "num_layers": module.num_layers,
        "bias": module.bias,
        "batch_first": module.batch_first,
        "dropout": module.dropout,
        "bidirectional": module.bidirectional,
        "dtype": str(weights["weight_ih_l0"].dtype).removeprefix("torch."),
    }
    if config["dtype"] not in ("float32", "float64"):
        raise ValueError(f"module has dtype {config['dtype']}, but float32 or float64 is expected")
    return config, {name: weight.numpy() for name, weight in weights.items()}


def make_module(lstm: NumpyLSTM) -> torch.nn.LSTM:
    """Return a `torch.nn.LSTM` that equals a `clstm.LSTM`. The state of torch's random numbers stays."""
    config = lstm.config()
    module = torch.nn.LSTM(**{**config, "dtype": getattr(torch, config["dtype"]), "device": "meta"})
    module.to_empty(device="cpu")
    module.load_state_dict({name: torch.from_numpy(array) for name, array in lstm.state_dict().items()})
    return module
