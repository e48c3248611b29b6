"""Models of Keras: their LSTMs by the name of the layer, and a call that runs the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ..arguments import as_real_array
from ..lstm import LSTM
from ..serialization import FilePath
from .building import reading
from .keras_file import KerasFile, layers_of, read_keras
from .keras_layers import LAYERS, Layer
from .keras_lstm import RecurrentLayer, Tensor, guess_layer, make_layer
from .keras_operations import OPERATIONS, is_operation, make_operation
from .limits import USUAL, within

RECURRENT = ("LSTM", "CuDNNLSTM", "Bidirectional")
Reference = tuple[str, int, int]  # name of a layer, which of its calls, which of its outputs


class Call(NamedTuple):
    """One use of a layer."""

    layer: str
    use: int  # which one, from 0
    inputs: list[Reference]
    state: list[Reference]  # initial state
    mask: list[Reference] | None  # one, or none; None: that of the inputs, as the layer before made it

    def references(self) -> list[Reference]:
        """All that it reads."""
        return self.inputs + self.state + (self.mask or [])


class KerasModel:
    """A model read from a file of Keras, made by `from_keras`.

    Attributes
    ----------
    lstms : dict of str to LSTM
        The LSTMs by the name of the layer, with `batch_first`; those of Bidirectional are bidirectional. They are
        what a call runs, so changing their weights changes the model.
    inputs : tuple of str
        Names of the input layers, or those that the model has given them; empty for a Sequential model, which has one.
    memory_limit : int
        Bytes that the outputs of layers may take in a call, 2**32 unless you set it: a small file can ask for any
        number.
    unsupported : tuple of str
        Layers that a call lacks, as "name (class)" or "name (class: what of it)"; `lstms` can be used all the same.

    Examples
    --------
    See `from_keras`.
    """

    def __init__(self, file: KerasFile) -> None:
        self._recurrent: dict[str, RecurrentLayer] = {}
        self._layers: dict[str, Layer] = {}
        self._calls: list[Call] = []
        self._inputs: dict[str, tuple[Reference, np.dtype[Any]]] = {}  # by name
        self._outputs: list[Reference] = []
        self._output_names: list[str] | None = None
        self.inputs: tuple[str, ...] = ()
        self.unsupported: tuple[str, ...] = ()
        self.memory_limit = USUAL
        self._dtype = next((a.dtype for arrays in file.weights.values() for a in arrays), np.dtype(np.float32))
        if self._dtype not in (np.float32, np.float64):
            self._dtype = np.dtype(np.float32)
        if file.config is None:
            guesses = {name: guess_layer(arrays) for name, arrays in file.weights.items()}
            self._recurrent = {name: layer for name, layer in guesses.items() if layer is not None}
            self.unsupported = ("the model (its file holds weights only)",)
        else:
            self._read_layers(file)
            self._read_graph(file.config)
        self.lstms: dict[str, LSTM] = {name: layer.lstm for name, layer in self._recurrent.items()}

    def __call__(self, inputs: Mapping[str, ArrayLike] | ArrayLike) -> Any:
        """Run the model, as at inference.

        Parameters
        ----------
        inputs : array_like or mapping of str to array_like
            (batch, time, features) where the model says so; a mapping by the names in `inputs` if there are several.

        Returns
        -------
        ndarray, tuple of ndarray or dict of str to ndarray
            A tuple where the model has several outputs, a dict where it names them.

        Raises
        ------
        ValueError
            If an input is missing, a shape does not fit, or the call goes beyond its limit. The states of stateful
            layers stay as they were.
        NotImplementedError
            If the model has layers that are not supported; the message names them.
        """
        if self.unsupported:
            raise NotImplementedError(f"a call does not support {', '.join(self.unsupported)}")
        kept = {name: layer._state for name, layer in self._recurrent.items()}
        try:
            with np.errstate(all="ignore"), within(self.memory_limit):  # infinities and NaN are values like others
                return self._run(dict(self._named(inputs)))
        except BaseException:
            for name, state in kept.items():
                self._recurrent[name]._state = state
            raise

    def reset_state(self) -> None:
        """Let stateful layers start from zeros again."""
        for layer in self._recurrent.values():
            layer.reset_state()

    def __repr__(self) -> str:
        return f"KerasModel(inputs={self.inputs}, lstms={list(self.lstms)})"

    # ---- reading ----

    def _read_layers(self, file: KerasFile) -> None:
        unsupported = []
        for layer in layers_of(file.config):
            name, kind, arrays = layer["config"]["name"], layer["class_name"], []
            arrays = file.weights.get(name, [])
            try:
                if is_operation(layer) and kind in OPERATIONS:
                    self._layers[name] = make_operation(layer)
                elif is_operation(layer):
                    unsupported.append(f"{name} ({kind})")
                elif kind in RECURRENT:
                    self._recurrent[name] = make_layer(layer, arrays, file.version)
                elif kind in LAYERS:
                    self._layers[name] = LAYERS[kind](layer, [_real(a) for a in arrays], file.version)
                else:
                    unsupported.append(f"{name} ({kind})")
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"layer {name!r:.60} ({kind}): {error}") from error
            except NotImplementedError as error:
                if kind in RECURRENT:
                    raise NotImplementedError(f"layer {name!r:.60} ({kind}): {error}") from error
                unsupported.append(f"{name} ({kind}: {error})")
        self.unsupported = tuple(unsupported)

    def _read_graph(self, config: Mapping[str, Any]) -> None:
        layers = layers_of(config)
        if config["class_name"] == "Sequential":
            previous: Reference = ("", 0, 0)
            for layer in layers:
                name = layer["config"]["name"]
                self._calls.append(Call(name, 0, [previous], [], None))
                previous = (name, 0, 0)
            self._outputs = [previous]
            return
        if config["class_name"] not in ("Functional", "Model"):
            self.unsupported += (f"the model ({config['class_name']!r:.60})",)
            return
        inner = config["config"]
        given, made = inner["input_layers"], inner["output_layers"]
        dtypes = {layer["config"]["name"]: layer["config"].get("dtype") for layer in layers}
        references = _references(given)
        names = list(given) if isinstance(given, dict) else [name for name, _, _ in references]
        for name, reference in zip(names, references, strict=True):
            self._inputs[name] = reference, np.dtype(np.bool_) if dtypes.get(reference[0]) == "bool" else self._dtype
        self.inputs = tuple(self._inputs)
        self._outputs, self._output_names = _references(made), list(made) if isinstance(made, dict) else None
        for layer in layers:
            name = layer["config"]["name"]
            for index, node in enumerate(layer.get("inbound_nodes") or [[]]):
                self._calls.append(Call(name, index, *_read_node(node, layer["class_name"] in RECURRENT)))
        self._calls = _in_order(self._calls)

    # ---- running ----

    def _named(self, inputs: Any) -> Iterator[tuple[Reference, Tensor]]:
        """Values of the input layers."""
        expected = self._inputs or {"": (("", 0, 0), self._dtype)}
        if not isinstance(inputs, Mapping):
            if len(expected) != 1:
                raise ValueError(f"a mapping of names to arrays is expected: the model has {', '.join(expected)}")
            inputs = dict.fromkeys(expected, inputs)
        if inputs.keys() != expected.keys():
            raise ValueError(f"inputs has {', '.join(inputs)}, but {', '.join(expected)} are expected")
        for name, value in inputs.items():
            reference, dtype = expected[name]
            yield reference, Tensor(as_real_array("x", value, dtype))

    def _run(self, values: dict[Reference, Tensor]) -> Any:
        made = 0
        for call in self._calls:
            if not call.inputs and (call.layer, call.use, 0) in values:
                continue  # an input
            if missing := [ref[0] for ref in call.references() if ref not in values]:
                raise ValueError(f"layer {call.layer!r:.60} reads what layer {missing[0]!r:.60} does not make")
            for i, tensor in enumerate(self._compute(call, values)):
                values[call.layer, call.use, i] = tensor
                made += tensor.array.nbytes
            if made > self.memory_limit:
                raise ValueError(f"the call makes {made} bytes, but memory_limit is {self.memory_limit}")
        if absent := [ref for ref in self._outputs if ref not in values]:
            raise ValueError(f"the model returns output {absent[0][2]} of layer {absent[0][0]!r:.60}, which has none")
        outputs = [values[ref].array for ref in self._outputs]
        last = self._calls[-1] if self._calls else None
        if not self.inputs and last is not None:  # all that the last layer of a Sequential model returns
            outputs = [tensor.array for ref, tensor in values.items() if ref[0] == last.layer]
        if self._output_names is not None:
            return dict(zip(self._output_names, outputs, strict=True))
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def _compute(self, call: Call, values: dict[Reference, Tensor]) -> list[Tensor]:
        inputs, state = [values[ref] for ref in call.inputs], [values[ref].array for ref in call.state]
        if call.mask is not None:
            mask = values[call.mask[0]].array if call.mask else None
            inputs = [tensor._replace(mask=mask) for tensor in inputs]
        try:
            if call.layer in self._recurrent:
                return self._recurrent[call.layer](inputs[0], state or None)
            return [self._layers[call.layer](inputs)]
        except (LookupError, AttributeError, TypeError, ValueError, ArithmeticError) as error:
            raise ValueError(f"layer {call.layer!r:.60} cannot be computed: {error}") from error


def _in_order(calls: list[Call]) -> list[Call]:
    """The calls, each after those whose outputs it reads."""
    by_use = {(call.layer, call.use): call for call in calls}
    reads = {key: [reference[:2] for reference in call.references()] for key, call in by_use.items()}
    try:
        return [by_use[key] for key in TopologicalSorter(reads).static_order() if key in by_use]
    except CycleError as error:
        raise ValueError(f"layer {error.args[1][0][0]!r:.60} reads what is made of its own output") from error


def _real(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _references(value: Any) -> list[Reference]:
    """References to tensors in a part of a configuration, as Keras 2 (lists) or Keras 3 (objects) writes them."""
    if isinstance(value, dict):
        if value.get("class_name") != "__keras_tensor__":
            return [reference for item in value.values() for reference in _references(item)]
        value = value["config"]["keras_history"]
    if not isinstance(value, list):
        return []
    if len(value) in (3, 4) and isinstance(value[0], str):
        name, index, output = value[:3]
        return [(name, int(index), int(output))]
    return [reference for item in value for reference in _references(item)]


def _read_node(node: Any, recurrent: bool) -> tuple[list[Reference], list[Reference], list[Reference] | None]:
    """Inputs, initial state and mask of one use of a layer."""
    if isinstance(node, dict):  # Keras 3
        arguments, options = node.get("args") or [None], node.get("kwargs") or {}
    else:
        arguments = [node]
        options = next((item[3] for item in node if isinstance(item, list) and len(item) > 3), {})
    odd = [key for key, value in options.items() if key not in ("initial_state", "mask") and _references(value)]
    if odd:
        raise NotImplementedError(f"{', '.join(odd)} as an input of a layer is not supported")
    inputs = _references(arguments)
    state, mask = _references(options.get("initial_state")), _references(options.get("mask"))
    written = mask if mask or isinstance(node, dict) else None
    return (inputs[:1], inputs[1:] + state, written) if recurrent else (inputs, state, written)


def from_keras(path: FilePath) -> KerasModel:
    """Read a model of Keras 2 or 3: its LSTMs by the name of the layer, and a call for the whole model.

    Parameters
    ----------
    path : path-like
        A `.keras`, `.h5` or `.weights.h5` file. The last kind holds no configuration: its LSTMs are found by their
        arrays, and get the default activations.

    Returns
    -------
    KerasModel

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is damaged or no file of Keras.
    NotImplementedError
        If an LSTM in it asks for something that is not supported; the message names it.

    Examples
    --------
    A file of weights, made by hand:

    >>> import os, tempfile
    >>> import h5py
    >>> import numpy as np
    >>> import clstm
    >>> path = os.path.join(tempfile.mkdtemp(), "model.weights.h5")
    >>> with h5py.File(path, "w") as file:
    ...     for i, array in enumerate([np.ones((3, 8)), np.ones((2, 8)), np.zeros(8)]):
    ...         file[f"layers/lstm/cell/vars/{i}"] = array.astype("f")
    >>> model = clstm.from_keras(path)
    >>> model.lstms["lstm"]
    LSTM(input_size=3, hidden_size=2, num_layers=1, bias=True, batch_first=True, dropout=0.0, bidirectional=False, \
dtype='float32')
    """
    file = read_keras(path)
    with reading(path, KeyError, IndexError, AttributeError):
        return KerasModel(file)
