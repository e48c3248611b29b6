"""An LSTM for PyTorch models that computes here: `clstm.torch.LSTM` stands in for `torch.nn.LSTM`.

This is the only module that imports torch.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from . import _core
from .arguments import kind_of
from .lstm import LSTM as NumpyLSTM

__all__ = ["LSTM"]

State = tuple[Tensor, Tensor]
DTYPES = {torch.float32: "float32", torch.float64: "float64"}


class LSTM(torch.nn.LSTM):
    """`torch.nn.LSTM`, computed by this library on the CPU.

    Constructor, attributes, state dict, initial values from torch's seed, inputs, outputs and errors are those of
    `torch.nn.LSTM`, whose documentation applies: change the import, and a model trains here. What differs:

    - Dropout masks come from torch's random numbers, so that `torch.manual_seed` reproduces them, but they are not the
      masks that `torch.nn.LSTM` draws.
    - Weights may change between forward and backward, in place too: gradients are those of the forward pass.
    - There is no second derivative, no forward-mode one and no `torch.func` transform. Tracing is refused.
    - Under autocast, computing stays in the dtype of the parameters, float32 or float64.

    Nothing is copied but the weights, each time that they have changed, and tensors whose last axis is not
    contiguous. A forward pass records only if a gradient is wanted; the record belongs to the graph, which frees it as
    it frees the tensors of other modules.

    Examples
    --------
    >>> import torch
    >>> import clstm.torch
    >>> lstm = clstm.torch.LSTM(3, 4, batch_first=True)
    >>> y, (h_n, c_n) = lstm(torch.ones(2, 5, 3))
    >>> y.square().sum().backward()
    >>> y.shape, lstm.weight_hh_l0.grad.shape
    (torch.Size([2, 5, 4]), torch.Size([16, 4]))
    """

    _weights: _core.Weights | None = None  # copies of the parameters, as of the last call
    _weights_dtype: torch.dtype | None = None

    def forward(self, input: Any, hx: State | None = None) -> tuple[Any, State]:
        """Run sequences.

        Parameters
        ----------
        input : Tensor or PackedSequence
            (time, batch, input_size), (batch, time, input_size) with `batch_first`, or (time, input_size).
        hx : (h_0, c_0), optional
            Initial states (num_layers * D, batch, hidden_size; h_0: proj_size, if there is one), or without batch axis;
            zeros by default.

        Returns
        -------
        output : Tensor or PackedSequence
            (time, batch, D * (proj_size or hidden_size)), laid out like the input.
        (h_n, c_n) : tuple of Tensor
        """
        self._update_flat_weights()
        if isinstance(input, PackedSequence):
            return self._packed(input, hx)
        if input.dim() not in (2, 3):
            raise ValueError(f"LSTM: Expected input to be 2D or 3D, got {input.dim()}D instead")
        batched, row_axis = input.dim() == 3, 0 if self.batch_first else 1
        if hx is not None and {hx[0].dim(), hx[1].dim()} != {input.dim()}:
            raise RuntimeError(
                f"For {'' if batched else 'un'}batched {input.dim()}-D input, hx and cx should also be {input.dim()}-D "
                f"but got ({hx[0].dim()}-D, {hx[1].dim()}-D) tensors"
            )
        if batched:
            return self._run(input, hx, None)
        hx = hx and (hx[0].unsqueeze(1), hx[1].unsqueeze(1))
        output, (h_n, c_n) = self._run(input.unsqueeze(row_axis), hx, None)
        return output.squeeze(row_axis), (h_n.squeeze(1), c_n.squeeze(1))

    def _packed(self, input: PackedSequence, hx: State | None) -> tuple[PackedSequence, State]:
        data, batch_sizes, sorted_indices, unsorted_indices = input
        if hx is None:
            self.check_input(data, batch_sizes)
        else:
            self.check_forward_args(data, hx, batch_sizes)
            hx = self.permute_hidden(hx, sorted_indices)
        padded, lengths = pad_packed_sequence(PackedSequence(data, batch_sizes), batch_first=self.batch_first)
        padded, state = self._run(padded, hx, lengths.numpy())
        output = pack_padded_sequence(padded, lengths, batch_first=self.batch_first).data
        packed = PackedSequence(output, batch_sizes, sorted_indices, unsorted_indices)
        return packed, self.permute_hidden(state, unsorted_indices)

    def _run(self, x: Tensor, hx: State | None, lengths: np.ndarray | None) -> tuple[Tensor, State]:
        """Run rows that are sorted by length, if they have lengths."""
        weights: list[Any] = self._flat_weights
        if torch.is_autocast_enabled("cpu"):
            x, hx = x.to(weights[0].dtype), hx and (hx[0].to(weights[0].dtype), hx[1].to(weights[0].dtype))
        self._check(x, hx, weights[0])
        h_0, c_0 = hx or (None, None)
        tensors = [tensor for tensor in (x, h_0, c_0, *weights) if tensor is not None]
        dropout = self.dropout if self.training and self.num_layers > 1 else 0.0
        call = _Call(
            weights=self._own_weights(x.dtype),
            directions=2 if self.bidirectional else 1,
            num_layers=self.num_layers,
            hidden_size=self.hidden_size,
            features=self.proj_size or self.hidden_size,
            batch_first=self.batch_first,
            lengths=lengths,
            dropout=dropout,
            seed=int(torch.empty((), dtype=torch.int64).random_()) if dropout else 0,
        )
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
            y, h_n, c_n = _Run.apply(call, x, h_0, c_0, *weights)
        else:
            y, h_n, c_n, _ = call.run(dropout > 0, x, h_0, c_0, *weights)
        return y, (h_n, c_n)

    def _check(self, x: Tensor, hx: State | None, weight: Tensor) -> None:
        """Raise if a shape, dtype or device is wrong, or somebody wants to see inside."""
        # Else the results would become constants, or the tensors have no numbers.
        if torch.jit.is_tracing() or torch.compiler.is_compiling():  # type: ignore[attr-defined]
            raise RuntimeError("clstm.torch.LSTM cannot be traced; put torch.nn.LSTM in its place to export a model")
        if hx is None:
            self.check_input(x, None)
        else:
            self.check_forward_args(x, hx, None)
        if weight.dtype not in DTYPES:
            raise ValueError(f"RNN weight dtype is {weight.dtype}, but torch.float32 or torch.float64 is expected")
        if x.size(1 if self.batch_first else 0) == 0:
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
        h_0, c_0 = hx or (x, x)
        for name, tensor in {"input": x, "hidden[0]": h_0, "hidden[1]": c_0, "weight": weight}.items():
            if tensor.device.type != "cpu":
                raise RuntimeError(f"{name} is on {tensor.device}, but clstm.torch.LSTM computes on the CPU")
            if tensor.dtype != weight.dtype:
                raise RuntimeError(f"{name} dtype is {tensor.dtype}, but the weights' is {weight.dtype}")
            if forward_ad.unpack_dual(tensor).tangent is not None:
                raise NotImplementedError(f"{name} has a tangent, but clstm.torch.LSTM has no forward-mode derivative")

    def _own_weights(self, dtype: torch.dtype) -> _core.Weights:
        if self._weights is None or self._weights_dtype != dtype:
            self._weights = NumpyLSTM.from_config({**_config(self, dtype), "dropout": 0.0})._weights
            self._weights_dtype = dtype
        return self._weights

    def flatten_parameters(self) -> None:
        """Do nothing: weights are packed when they are used."""

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        return {name: value for name, value in state.items() if name not in ("_weights", "_weights_dtype")}


class _Call(NamedTuple):
    """A call but for its tensors. `run` and `gradients` take and return tensors that autograd does not see."""

    weights: _core.Weights
    directions: int
    num_layers: int
    hidden_size: int  # features of c
    features: int  # of h
    batch_first: bool
    lengths: np.ndarray | None  # longest first
    dropout: float
    seed: int

    def run(
        self, record: bool, x: Tensor, h_0: Tensor | None, c_0: Tensor | None, *weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Any]:
        for i, weight in enumerate(weights):
            self.weights.assign(i, weight.detach().numpy())
        states = self.directions * self.num_layers, x.size(0 if self.batch_first else 1)
        y = x.new_empty(*x.shape[:2], self.directions * self.features)
        h_n, c_n = x.new_empty(*states, self.features), x.new_empty(*states, self.hidden_size)
        tape = _core.forward(
            self.weights,
            self._time_major(x),
            self._time_major(y),
            _contiguous(h_0),
            _contiguous(c_0),
            h_n.numpy(),
            c_n.numpy(),
            self.lengths,
            None,
            record,
            self.seed,
            None,
            self.dropout,
        )
        return y, h_n, c_n, tape

    def gradients(
        self,
        tape: _core.Tape,
        dy: Tensor | None,
        dh_n: Tensor | None,
        dc_n: Tensor | None,
        shapes: list[torch.Size | None],
        dtype: torch.dtype,
    ) -> list[Tensor | None]:
        """Gradients on x, h_0, c_0 and the weights, in `shapes`; where that is None, there is none."""
        found: list[Any] = [None if shape is None else torch.empty(shape, dtype=dtype) for shape in shapes]
        dx, dh_0, dc_0, *dweights = found
        _core.backward(
            tape,
            None if dy is None else self._time_major(dy),
            _contiguous(dh_n),
            _contiguous(dc_n),
            None if dx is None else self._time_major(dx),
            _contiguous(dh_0),
            _contiguous(dc_0),
            None if dweights[0] is None else [grad.numpy() for grad in dweights],
        )
        return found

    def _time_major(self, tensor: Tensor) -> np.ndarray:
        """(time, batch, features), contiguous along features."""
        if tensor.size(-1) > 1 and tensor.stride(-1) != 1:
            tensor = tensor.contiguous()
        array = tensor.detach().numpy()
        return array.swapaxes(0, 1) if self.batch_first else array


def _contiguous(tensor: Tensor | None) -> np.ndarray | None:
    return None if tensor is None else tensor.detach().contiguous().numpy()


class _Run(torch.autograd.Function):
    """(y, h_n, c_n). The tape's recording is saved as a tensor, so that the graph decides how long it lives, and hooks
    of saved tensors (checkpointing, offloading) see it."""

    @staticmethod
    def forward(ctx: Any, call: _Call, *tensors: Any) -> tuple[Tensor, Tensor, Tensor]:
        y, h_n, c_n, tape = call.run(True, *tensors)
        recording, ctx.label = tape._detach()
        ctx.save_for_backward(torch.from_numpy(recording))
        ctx.set_materialize_grads(False)
        ctx.call, ctx.dtype = call, y.dtype
        ctx.shapes = [None if tensor is None else tensor.shape for tensor in tensors]
        return y, h_n, c_n

    @staticmethod
    def backward(ctx: Any, *dy_dh_dc: Tensor | None) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad[1:]
        wanted = (*wanted[:3], *[any(wanted[3:])] * len(wanted[3:]))  # all weights or none
        shapes = [shape if want else None for shape, want in zip(ctx.shapes, wanted, strict=True)]
        (recording,) = ctx.saved_tensors
        grads = ctx.call.gradients(ctx.label._attach(recording.numpy()), *dy_dh_dc, shapes, ctx.dtype)
        if torch.is_grad_enabled():
            grads = _Once.apply(torch.empty(0, requires_grad=True), *grads)
        return None, *grads


class _Once(torch.autograd.Function):
    """Gradients as they are, in a graph whose use is refused."""

    @staticmethod
    def forward(ctx: Any, root: Tensor, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        return grads

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise RuntimeError("clstm.torch.LSTM has no second derivative; use torch.nn.LSTM where one is needed")


def config_and_weights(module: torch.nn.LSTM) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the arguments of the `clstm.LSTM` that equals a `torch.nn.LSTM`, and the weights."""
    if not isinstance(module, torch.nn.LSTM):
        raise TypeError(f"module is a {kind_of(module)}, but a torch.nn.LSTM is expected")
    weights = {name: getattr(module, name).detach().cpu() for names in module._all_weights for name in names}
    dtype = weights["weight_ih_l0"].dtype
    if dtype not in DTYPES:
        raise ValueError(f"module has dtype {dtype}, but torch.float32 or torch.float64 is expected")
    return _config(module, dtype), {name: weight.numpy() for name, weight in weights.items()}


def _config(module: torch.nn.LSTM, dtype: torch.dtype) -> dict[str, Any]:
    return {
        "input_size": module.input_size,
        "hidden_size": module.hidden_size,
        "num_layers": module.num_layers,
        "bias": module.bias,
        "batch_first": module.batch_first,
        "dropout": module.dropout,
        "bidirectional": module.bidirectional,
        "proj_size": module.proj_size,
        "dtype": DTYPES[dtype],
    }


def make_module(lstm: NumpyLSTM) -> torch.nn.LSTM:
    """Return a `torch.nn.LSTM` that equals a `clstm.LSTM`. The state of torch's random numbers stays."""
    config = lstm.config()
    if own := [f"{name}={config[name]!r}" for name in config if name not in (*torch.nn.LSTM.__constants__, "dtype")]:
        raise ValueError(f"the layer has {', '.join(own)}, but torch.nn.LSTM has no such options")
    module = torch.nn.LSTM(**{**config, "dtype": getattr(torch, config["dtype"]), "device": "meta"})
    module.to_empty(device="cpu")
    module.load_state_dict({name: torch.from_numpy(array) for name, array in lstm.state_dict().items()})
    return module
