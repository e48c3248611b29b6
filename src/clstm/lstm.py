"""The LSTM layer: a stack of layers over whole sequences."""

from __future__ import annotations

import math
import os
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from . import _core
from .arguments import as_flag, as_float_dtype, as_probability, as_real_array, as_seed, as_size
from .axes import Axes
from .checkpoint import CheckpointTape, segment_steps
from .initialization import INITIALIZERS
from .layout import Layout
from .module import Module, Shape, check_names_and_shapes, matching_arrays
from .packing import PackedSequence, pack_like, pad_packed_sequence
from .state_dicts import Source, infer_config, read_arrays
from .stream import Stream
from .variants import Activation, Variant

if TYPE_CHECKING:
    import torch

State = tuple[np.ndarray, np.ndarray]
Tape: TypeAlias = _core.Tape


# What the parameters and the C library's network depend on.
_FIXED = frozenset(
    {"input_size", "hidden_size", "num_layers", "bias", "bidirectional", "dropout", "dtype", *Variant._fields}
)

_counting = threading.RLock()  # guards dropout_counter, of every LSTM
if hasattr(os, "register_at_fork"):  # else a child forked in the middle of a count would wait for ever
    os.register_at_fork(before=_counting.acquire, after_in_parent=_counting.release, after_in_child=_counting.release)


class LSTM(Module):
    """Long Short-Term Memory over sequences, PyTorch's `nn.LSTM`.

    Parameters
    ----------
    input_size : int
        Number of features I of x, at least 1.
    hidden_size : int
        Number of features H of h and c, at least 1.
    num_layers : int, default 1
        Number of stacked layers L; each reads the outputs of the one below.
    bias : bool, default True
        Whether there are biases b_ih and b_hh.
    batch_first : bool, default False
        Whether x and y are (batch, time, features) rather than (time, batch, features). States are not concerned.
    dropout : float, default 0.0
        Probability of zeroing an output of any layer but the last, in `forward` only; the others are scaled by
        1 / (1 - dropout).
    bidirectional : bool, default False
        Whether a second LSTM per layer reads the sequence from its end; D is 2 then, else 1.
    proj_size : int, default 0
        Number of features P of h, less than hidden_size: h is a projection of the cell's output (Sak et al. 2014).
        0: no projection, and P is hidden_size.
    peepholes : bool, default False
        Whether i and f see c, and o the new c (Gers & Schmidhuber 2000).
    coupling : {None, "forget", "input"}
        "forget": f = 1 - i, as ONNX's input_forget. "input": i = 1 - f, as TFLite's CIFG. The gate has no weights then.
    forget_gate : bool, default True
        False: f = 1, the cell of Hochreiter & Schmidhuber (1997).
    activations : dict or list of three, optional
        Functions for "i", "f", "g", "o" and the output "h", or for gates, candidate and output: names such as
        "hard_sigmoid", or lists of name, alpha, beta.
    clip, cell_clip, proj_clip : float, optional
        Limits of the pre-activations, of c and of the projection; none by default.
    learn_initial_state : bool, default False
        Whether each layer and direction has parameters h_0_l0 (P,) and c_0_l0 (H,), which stand in for initial states
        that a call is not given.
    recurrent_dropout : float, default 0.0
        Probability of zeroing an element of g, at every step, in `forward` only; the others are scaled by
        1 / (1 - recurrent_dropout) (Semeniuta et al. 2016).
    variational_dropout_x, variational_dropout_h : float, default 0.0
        Probability of zeroing an input of each layer, or an element of h in the recurrent product, at all steps of a
        sequence, in `forward` only; the others are scaled by 1 / (1 - p) (Gal & Ghahramani 2016).
    zoneout_c, zoneout_h : float, default 0.0
        Probability that an element of c or h keeps its old value at a step, in `forward`; plain calls mix old and new
        by it (Krueger et al. 2017).
    layer_norm : bool, default False
        Whether each gate, and c in the output, is normalised over the hidden units (Ba et al. 2016): to mean 0 and
        deviation 1, then times a gain, plus the bias.
    layer_norm_eps : float, default 1e-5
        What layer normalisation adds to a variance before its square root.
    dtype : {"float32", "float64"}, default "float32"
        Type of parameters and results. Other real types of x are converted to it.
    seed : int, optional
        Makes initial values and dropout masks reproducible.
    init : {"default", "pytorch"}, default "default"
        "default": Glorot uniform for input weights, orthogonal for recurrent ones (both per gate), forget gate's
        bias_ih 1, all other biases 0. "pytorch": everything uniform in +-1/sqrt(hidden_size).

    Attributes
    ----------
    weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0, weight_ih_l0_reverse, weight_ih_l1, ... : ndarray
        Parameters, as PyTorch names and shapes them: (4H, I or D*P), (4H, P), (4H,), (4H,); gates in the order
        i, f, g, o. With a projection weight_hr_l0 (P, H), with peepholes weight_ch_l0 (3, H) of i, f, o; with layer
        normalisation weight_ln_l0 (4, H), weight_ln_c_l0 (H,) and bias_ln_c_l0 (H,). They are
        live: writing into one changes the layer from the next call on. While such an array is
        held, each call packs the weights anew, so drop it when done.
    dropout_counter : int
        Number of training calls with dropout so far. With `seed` it selects the next masks; save both to resume a
        run exactly.

    Notes
    -----
    For each step, with x_t the input and sigmoid s::

        i = s(W_ii x_t + b_ii + W_hi h + b_hi)       f = s(W_if x_t + b_if + W_hf h + b_hf)
        g = tanh(W_ig x_t + b_ig + W_hg h + b_hg)    o = s(W_io x_t + b_io + W_ho h + b_ho)
        c' = f * c + i * g                           h' = o * tanh(c')

    after Hochreiter & Schmidhuber (1997), with the forget gate of Gers, Schmidhuber & Cummins (2000). `backward` is
    exact backpropagation through time (Werbos 1990). The formulas of the variants are in docs/variants.md.

    A sequence's results are the same bits whatever the batch around it, the number of threads, the way time was cut
    into calls, and the instruction set. Denormal numbers count as 0. Any number of threads may call one LSTM at once.

    Examples
    --------
    >>> import numpy as np
    >>> import clstm
    >>> lstm = clstm.LSTM(5, 8, num_layers=2, seed=0)
    >>> x = np.ones((7, 3, 5), np.float32)  # (time, batch, features)
    >>> y, (h_n, c_n) = lstm(x)
    >>> y.shape, h_n.shape, c_n.shape
    ((7, 3, 8), (2, 3, 8), (2, 3, 8))
    >>> y, state, tape = lstm.forward(x)
    >>> dx, (dh_0, dc_0), grads = lstm.backward(tape, dy=np.ones_like(y))
    >>> dx.shape, grads["weight_hh_l1"].shape
    ((7, 3, 5), (32, 8))
    """

    carries_state = True
    proj_size: int
    peepholes: bool
    coupling: str | None
    forget_gate: bool
    activations: dict[str, Activation] | None
    clip: float | None
    cell_clip: float | None
    proj_clip: float | None
    learn_initial_state: bool
    recurrent_dropout: float
    variational_dropout_x: float
    variational_dropout_h: float
    zoneout_c: float
    zoneout_h: float
    layer_norm: bool
    layer_norm_eps: float

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        peepholes: bool = False,
        coupling: str | None = None,
        forget_gate: bool = True,
        activations: Any = None,
        clip: float | None = None,
        cell_clip: float | None = None,
        proj_clip: float | None = None,
        learn_initial_state: bool = False,
        recurrent_dropout: float = 0.0,
        variational_dropout_x: float = 0.0,
        variational_dropout_h: float = 0.0,
        zoneout_c: float = 0.0,
        zoneout_h: float = 0.0,
        layer_norm: bool = False,
        layer_norm_eps: float = 1e-5,
        dtype: DTypeLike = "float32",
        seed: int | None = None,
        init: str = "default",
    ) -> None:
        options = locals()
        self.input_size = as_size("input_size", input_size)
        self.hidden_size = as_size("hidden_size", hidden_size)
        self.num_layers = as_size("num_layers", num_layers, most=2**20)
        self.bias = as_flag("bias", bias)
        self.batch_first = as_flag("batch_first", batch_first)
        self.dropout = as_probability("dropout", dropout)
        if self.dropout > 0 and self.num_layers == 1:
            warnings.warn("dropout acts between layers, but num_layers is 1, so it does nothing", stacklevel=2)
        self.bidirectional = as_flag("bidirectional", bidirectional)
        for name, value in Variant.of(self.hidden_size, options)._asdict().items():
            setattr(self, name, value)
        self.dtype = as_float_dtype(dtype)
        if not isinstance(init, str) or init not in INITIALIZERS:
            raise ValueError(f"init is {init!r}, but one of {', '.join(map(repr, INITIALIZERS))} is expected")
        self.seed = int.from_bytes(os.urandom(7), "little") if seed is None else as_seed(seed)
        self.dropout_counter = 0
        self._allocate()
        rng = np.random.default_rng(self.seed)
        INITIALIZERS[init](self.parameters(), self.hidden_size, rng, self._variant.gates)

    @property
    def _variant(self) -> Variant:
        return Variant(*(getattr(self, name) for name in Variant._fields))

    def _allocate(self) -> None:
        """Make zero parameters. From here on the configuration is fixed."""
        D, H = 1 + self.bidirectional, self.hidden_size
        columns = self.input_size + H + 2 * self.bias + (self.num_layers - 1) * (D * H + H + 2 * self.bias)
        size = 4 * H * D * columns * self.dtype.itemsize
        if size > 2**47:
            raise MemoryError(
                f"input_size {self.input_size}, hidden_size {H} and num_layers {self.num_layers} make {size} bytes of "
                "parameters"
            )
        self._weights = _core.Weights(
            input_size=self.input_size,
            hidden_size=H,
            num_layers=self.num_layers,
            double_precision=self.dtype == np.float64,
            bias=self.bias,
            bidirectional=self.bidirectional,
            dropout=self.dropout,
            variant=self._variant.spec(),
        )
        self._shapes = dict(LSTM.parameter_shapes(**LSTM.config(self)))
        self._is_random = self.dropout > 0 or self._variant.is_random
        self._features = self.proj_size or H  # of h
        self._axes = self._make_axes()
        self._index = {name: i for i, name in enumerate(self._shapes)}

    # ---- parameters ----

    @staticmethod
    def parameter_shapes(
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        bidirectional: bool = False,
        **options: Any,
    ) -> Iterator[tuple[str, Shape]]:
        """Yield names and shapes of the parameters."""
        variant = Variant.of(hidden_size, options)
        suffixes = ["", "_reverse"] if bidirectional else [""]
        for layer in range(num_layers):
            layer_input = len(suffixes) * (variant.proj_size or hidden_size) if layer else input_size
            for suffix in suffixes:
                for name, shape in variant.parameter_shapes(layer_input, hidden_size, bias):
                    yield f"{name}_l{layer}{suffix}", shape

    def parameters(self) -> dict[str, np.ndarray]:
        """Return the live arrays by name: writing into one changes the layer."""
        return {name: self._weights.view(i) for name, i in self._index.items()}

    @property
    def num_parameters(self) -> int:
        """Number of trainable values."""
        return sum(math.prod(shape) for shape in self._shapes.values())

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return copies of the parameters by name."""
        return {name: self._weights.copy(i) for name, i in self._index.items()}

    def config(self) -> dict[str, Any]:
        """Return the arguments of the constructor, without seed and init."""
        return {
            "input_size": self.input_size,
            "hidden_size": self.hidden_size,
            "num_layers": self.num_layers,
            "bias": self.bias,
            "batch_first": self.batch_first,
            "dropout": self.dropout,
            "bidirectional": self.bidirectional,
            **self._variant.options(),
            "dtype": self.dtype.name,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> LSTM:
        """Return a new layer made with the arguments that `config()` returned, quickly: its values are to be loaded."""
        return cls(**config, init="pytorch")

    # ---- from elsewhere, and back ----

    @classmethod
    def from_state_dict(
        cls, source: Source, prefix: str = "", *, batch_first: bool = False, dropout: float = 0.0
    ) -> LSTM:
        """Return a new layer with the weights of an `nn.LSTM`, without PyTorch. Names and shapes tell its sizes.

        Parameters
        ----------
        source : mapping of str to array_like, or path-like
            A state dict, or a safetensors file, of which only this layer's arrays are read. Other entries than the
            layer's may be there if a dot follows the prefix in their names, as in those of other layers.
        prefix : str, default ""
            What the names of the layer's parameters start with, such as "encoder.lstm.".
        batch_first, dropout
            As for the constructor: weights do not tell.

        Returns
        -------
        LSTM
            Its dtype is float64 if any array is, else float32; float16 is converted.

        Raises
        ------
        ValueError
            If names are missing or unexpected, or shapes are not an LSTM's; the message lists them. A file that is
            damaged.
        TypeError
            If an array does not hold floating-point numbers that numpy has.
        OSError
            If the file cannot be read.

        Examples
        --------
        >>> import clstm
        >>> arrays = {"lstm." + name: array for name, array in clstm.LSTM(3, 4, 2, seed=0).state_dict().items()}
        >>> clstm.LSTM.from_state_dict(arrays, "lstm.").config()["num_layers"]
        2
        """
        arrays = read_arrays(source, prefix)
        owner = f"the LSTM at {prefix!r}"
        config = infer_config(arrays, owner)
        check_names_and_shapes(
            {name: array.shape for name, array in arrays.items()}, dict(cls.parameter_shapes(**config)), owner
        )
        lstm = cls.from_config({**config, "batch_first": batch_first, "dropout": dropout})
        lstm.load_state_dict(arrays)
        return lstm

    @classmethod
    def from_torch(cls, module: torch.nn.LSTM) -> LSTM:
        """Return a new layer with the weights and attributes of a `torch.nn.LSTM`.

        Raises
        ------
        TypeError
            If the module is no `torch.nn.LSTM`.
        ValueError
            If it has another dtype than float32 or float64.

        Examples
        --------
        See `docs/pytorch.md`.
        """
        from .torch import config_and_weights

        config, weights = config_and_weights(module)
        lstm = cls.from_config(config)
        lstm.load_state_dict(weights)
        return lstm

    def to_torch(self) -> torch.nn.LSTM:
        """Return a new `torch.nn.LSTM` with copies of this layer's weights, and its attributes.

        Raises
        ------
        ValueError
            If this layer has an option that `torch.nn.LSTM` lacks.
        """
        from .torch import make_module

        return make_module(self)

    # ---- attributes and copies ----

    def __getattr__(self, name: str) -> np.ndarray:
        index = self.__dict__.get("_index", {})
        if name in index:
            return self._weights.view(index[name])
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        index = self.__dict__.get("_index", {})
        if name in index:
            own = {name: self._weights.view(index[name])}
            own[name][...] = matching_arrays({name: value}, own, type(self).__name__)[name]
        elif index and name in _FIXED:
            raise AttributeError(f"{name} is fixed when the {type(self).__name__} is made")
        elif index and name.startswith(("weight_", "bias_", "h_0_", "c_0_")):
            raise AttributeError(f"{type(self).__name__} has no parameter {name!r}; it has {', '.join(index)}")
        elif name == "batch_first":
            super().__setattr__(name, as_flag(name, value))
            if index:
                self._axes = self._make_axes()
        else:
            super().__setattr__(name, value)

    def __dir__(self) -> Iterable[str]:
        return [*super().__dir__(), *self._index]

    def __getstate__(self) -> dict[str, Any]:
        made = {"_weights", "_shapes", "_index", "_is_random", "_features", "_axes"}
        attributes = {name: value for name, value in self.__dict__.items() if name not in made}
        return {"attributes": attributes, "state_dict": self.state_dict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state["attributes"])
        self._allocate()
        LSTM.load_state_dict(self, state["state_dict"])

    # ---- calls ----

    def __call__(
        self,
        x: ArrayLike | PackedSequence,
        state: tuple[ArrayLike | None, ArrayLike | None] | None = None,
        lengths: Any = None,
        mask: Any = None,
    ) -> tuple[Any, State]:
        """Run sequences, without recording anything.

        Parameters
        ----------
        x : array_like of shape (time, batch, input_size), or PackedSequence
            Or (batch, time, input_size) with `batch_first`, or (time, input_size) for one sequence without batch
            axis. An array of the layer's dtype with contiguous features is not copied. Time and batch may be 0.
        state : (h_0, c_0), optional
            Initial states of shape (num_layers * D, batch, P) and (num_layers * D, batch, hidden_size), or without
            batch axis; P is hidden_size without projection. Either may be None, which means zeros, or the learned ones.
        lengths : array_like of int, shape (batch,), optional
            Valid steps of each sequence, 0 to time, in any order; all by default. Beyond its length a sequence is not
            read and its output is 0; its final state is that at its own last step, or the initial one for length 0;
            its reverse direction starts at its own last step.
        mask : array_like of bool, shape (time, batch), optional
            False where a step is to be skipped, as in Keras; laid out like x, without features. A skipped step is not
            read and carries the state on; its output repeats the one before it, in the reverse direction the one after
            it, and is 0 where there is none. Instead of lengths.

        Returns
        -------
        y : ndarray of shape (time, batch, D * P), or PackedSequence
            Outputs of the last layer, [forward | reverse]; laid out like x.
        (h_n, c_n) : tuple of ndarray
            Final states, in the shape of the initial ones: layer 0 forward, layer 0 reverse, layer 1 forward, ...

        Raises
        ------
        ValueError
            If a shape or a length is wrong, or both lengths and a mask are given.
        TypeError
            If an array does not hold real numbers, lengths do not hold integers, or mask does not hold bools.
        """
        y, state, _ = self._run(x, state, lengths, mask, training=False)
        return y, state

    def forward(
        self,
        x: ArrayLike | PackedSequence,
        state: tuple[ArrayLike | None, ArrayLike | None] | None = None,
        lengths: Any = None,
        mask: Any = None,
        *,
        checkpoint: bool | int = False,
    ) -> tuple[Any, State, Any]:
        """Run sequences as a plain call does, with dropout, and record what `backward` needs.

        Parameters
        ----------
        x, state, lengths, mask
            As for a call.
        checkpoint : bool or int, default False
            True: keep only the states between segments of about sqrt(time) steps, which `backward` then runs again one
            by one. A number: the steps of a segment. Gradients have the same bits; memory is about that of two
            segments. See docs/long-sequences.md.

        Returns
        -------
        y : ndarray or PackedSequence
        (h_n, c_n) : tuple of ndarray
        tape : Tape or CheckpointTape
            For `backward`. It keeps copies of what it needs: x and the weights may change before that. Only with
            `checkpoint` x is not copied, and must not change.
        """
        return self._run(x, state, lengths, mask, training=True, checkpoint=checkpoint)

    def backward(
        self,
        tape: Tape | CheckpointTape,
        dy: ArrayLike | PackedSequence | None = None,
        dstate: tuple[ArrayLike | None, ArrayLike | None] | None = None,
    ) -> tuple[Any, State, dict[str, np.ndarray]]:
        """Return the gradients of a loss by backpropagation through time.

        Parameters
        ----------
        tape : Tape or CheckpointTape
            From this layer's `forward`. It is only read, so it can be used again.
        dy : array_like or PackedSequence, optional
            Gradient of the loss with respect to y, in the shape of y; zeros by default.
        dstate : (dh_n, dc_n), optional
            Gradient with respect to the final states, in their shape; zeros by default, as either may be.

        Returns
        -------
        dx : ndarray or PackedSequence
            Gradient with respect to x, in the shape of x; 0 beyond the lengths and where masked. Packed where dy is.
        (dh_0, dc_0) : tuple of ndarray
            Gradient with respect to the initial states.
        grads : dict of str to ndarray
            Gradients with respect to the parameters, new arrays by the parameters' names.

        Raises
        ------
        ValueError
            If the tape is of another layer, a shape is wrong, or x has changed since a `forward` with `checkpoint`.
        """
        if isinstance(dy, PackedSequence):
            dx, dstate, grads = self.backward(tape, pad_packed_sequence(dy, self.batch_first)[0], dstate)
            return pack_like(dx, dy, self.batch_first), dstate, grads
        if not isinstance(tape, (Tape, CheckpointTape)) or not tape.is_of(self._weights):
            raise ValueError(f"tape is {tape!r:.80}, but one that this layer's forward returned is expected")
        layout: Layout = tape.meta
        axes, T, B, D = self._axes[layout.batched], tape.T, tape.B, 1 + self.bidirectional
        if dy is not None:
            dy = axes.take_sequences("dy", dy, D * self._features)
            if dy.shape[:2] != (T, B):
                raise ValueError(
                    f"dy has {dy.shape[0]} time steps and {dy.shape[1]} rows, "
                    f"but {T} time steps and {B} rows are expected"
                )
            dy = layout.take_gradient(dy, D)
        dh_n, dc_n = axes.take_states(("dh_n", "dc_n"), "dstate", dstate, B)
        dx_out, dx = axes.empty_sequences(T, B, self.input_size)
        dh_0, dc_0 = axes.empty_states(B)
        grads = dict(zip(self._shapes, self._weights.gradients(), strict=True))
        found = layout.empty_steps(dx)
        arrays = dy, dh_n, dc_n, found, dh_0, dc_0, list(grads.values())
        if isinstance(tape, CheckpointTape):
            tape.backward(*arrays)
        else:
            _core.backward(tape, *arrays)
        layout.restore_steps(found, dx)
        return dx_out, axes.restore_states(dh_0, dc_0), grads

    def trace(
        self,
        x: ArrayLike,
        state: tuple[ArrayLike | None, ArrayLike | None] | None = None,
        lengths: Any = None,
    ) -> dict[str, np.ndarray]:
        """Return every gate, cell and output of a plain call, step by step, under the names of layer and direction.

        Parameters
        ----------
        x, state, lengths
            As for a call.

        Returns
        -------
        dict of str to ndarray
            "i_l0", "f_l0", "g_l0", "o_l0" (input, forget and output gate, and candidate: the values after their
            activation functions), "c_l0" and "h_l0"; then those of "l0_reverse" and of the layers above. Each has shape
            (time, batch, hidden_size), h (time, batch, P), laid out like x. They are those that the call computes, to
            the last bit; of a coupled or missing gate, what stands in for it. Beyond a sequence's length they are 0.

        Raises
        ------
        ValueError, TypeError
            As a call does.

        Examples
        --------
        >>> import numpy as np
        >>> import clstm
        >>> lstm = clstm.LSTM(3, 4, seed=0)
        >>> x = np.ones((5, 3), np.float32)
        >>> trace = lstm.trace(x)
        >>> list(trace), trace["f_l0"].shape
        (['i_l0', 'f_l0', 'g_l0', 'o_l0', 'c_l0', 'h_l0'], (5, 4))
        >>> bool(np.all(trace["h_l0"] == lstm(x)[0]))
        True
        """
        x = as_real_array("x", x, self.dtype)
        axes = self._axes[x.ndim != 2]
        x = axes.take_sequences("x", x, self.input_size)
        T, B = x.shape[:2]
        h_0, c_0 = axes.take_states(("h_0", "c_0"), "state", state, B)
        layout = axes.take_layout(lengths, None, T, B)
        count, D = self.num_layers * (1 + self.bidirectional), 1 + self.bidirectional
        gates, c, h = (
            np.zeros((count, T, B, *features), self.dtype)
            for features in ((4, self.hidden_size), (self.hidden_size,), (self._features,))
        )
        y, (h_n, c_n) = np.empty((T, B, D * self._features), self.dtype), axes.empty_states(B)
        rows = slice(None) if layout.order is None else layout.order  # a trace is recorded longest row first
        h_0, c_0 = (None if state is None else np.ascontiguousarray(state[:, rows]) for state in (h_0, c_0))
        run = h_0, c_0, h_n, c_n, layout.lengths, None, False, 0, None
        _core.forward(self._weights, x[:, rows], y, *run, trace=(gates, c, h))
        names = [f"l{layer}{suffix}" for layer in range(self.num_layers) for suffix in ("", "_reverse")[:D]]
        return {
            f"{kind}_{name}": axes.restore_sequences(array, rows)
            for i, name in enumerate(names)
            for kind, array in zip("ifgoch", (*gates[i].transpose(2, 0, 1, 3), c[i], h[i]), strict=True)
        }

    def stream(self, batch_size: int = 1) -> Stream:
        """Return a `Stream`, which runs this layer step by step and keeps the state between calls.

        Parameters
        ----------
        batch_size : int, default 1
            Number of independent streams that advance together.

        Raises
        ------
        ValueError
            If the layer is bidirectional: its reverse direction would need the future.

        Examples
        --------
        >>> import numpy as np
        >>> import clstm
        >>> lstm = clstm.LSTM(3, 4, seed=0)
        >>> x = np.linspace(-1, 1, 15, dtype=np.float32).reshape(5, 3)
        >>> stream = lstm.stream()
        >>> steps = [stream.step(x_t) for x_t in x]
        >>> bool(np.all(np.stack(steps) == lstm(x)[0]))
        True
        """
        if self.bidirectional:
            raise ValueError("bidirectional is True, but a stream has no future for the reverse direction to start at")
        initial = [
            (self._index[f"h_0_l{layer}"], self._index[f"c_0_l{layer}"])
            for layer in range(self.num_layers * self.learn_initial_state)
        ]
        return Stream(self._weights, as_size("batch_size", batch_size), self.config(), initial)

    def _make_axes(self) -> tuple[Axes, Axes]:
        """Those of a call of one sequence, and of many."""
        count, features = self.num_layers * (1 + self.bidirectional), (self._features, self.hidden_size)
        one, many = (Axes(self.dtype, self.batch_first, batched, count, features) for batched in (False, True))
        return one, many

    def _run(
        self, x: Any, state: Any, lengths: Any, mask: Any, training: bool, checkpoint: bool | int = False
    ) -> tuple[Any, State, Any]:
        if isinstance(x, PackedSequence):
            for name, value in (("lengths", lengths), ("mask", mask)):
                if value is not None:
                    raise ValueError(f"{name} is given, but None is expected: a PackedSequence has its own lengths")
            if np.ndim(x.data) != 2:
                raise ValueError(f"x.data has shape {np.shape(x.data)}, but (steps, {self.input_size}) is expected")
            padded, lengths = pad_packed_sequence(x, self.batch_first)
            y, state, tape = self._run(padded, state, lengths, None, training, checkpoint)
            return pack_like(y, x, self.batch_first), state, tape
        x = as_real_array("x", x, self.dtype)
        axes = self._axes[x.ndim != 2]
        x = axes.take_sequences("x", x, self.input_size)
        T, B = x.shape[:2]
        h_0, c_0 = axes.take_states(("h_0", "c_0"), "state", state, B)
        layout = axes.take_layout(lengths, mask, T, B)
        steps = segment_steps(checkpoint, T)
        x = layout.take_steps(x)
        y_out, y = axes.empty_sequences(T, B, (1 + self.bidirectional) * self._features)
        h_n, c_n = axes.empty_states(B)
        seed = self._draw_seed() if training and self._is_random else 0
        found = layout.empty_steps(y)
        arrays = x, found, h_0, c_0, h_n, c_n, layout.lengths, layout.order
        if steps:
            tape = CheckpointTape(self._weights, *arrays, seed, steps, 1 + self.bidirectional, layout)
        else:
            tape = _core.forward(self._weights, *arrays, training, seed, layout)
        layout.restore_outputs(found, y, 1 + self.bidirectional)
        return y_out, axes.restore_states(h_n, c_n), tape

    def _draw_seed(self) -> int:
        """The seed of a training call's masks; calls of other threads get others."""
        with _counting:
            count = self.dropout_counter
            self.dropout_counter = count + 1
        return int(np.random.SeedSequence((self.seed, count)).generate_state(1, np.uint64)[0])
