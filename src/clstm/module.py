"""The base class of everything with parameters: state, copies, files."""

from __future__ import annotations

import copy
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from .arguments import as_detached_array
from .serialization import FilePath, read_safetensors, write_safetensors

FORMAT = {"format": "clstm", "version": "1"}
EXTRA = "extra."  # what the names of tensors beside the parameters start with, in a file

Shape = tuple[int, ...]
Self = TypeVar("Self", bound="Module")
_classes: dict[str, type[Module]] = {}


class Module(ABC):
    """A part of a model.

    A subclass implements `parameters` and `config`; this class makes state dictionaries, copies, files and a
    `repr` of them. A model file calls it by its name, a class of another package by module and name.

    Examples
    --------
    >>> import clstm
    >>> linear = clstm.Linear(3, 2)
    >>> {name: array.shape for name, array in linear.parameters().items()}
    {'weight': (2, 3), 'bias': (2,)}
    >>> linear.num_parameters
    8
    """

    carries_state = False  # True where calls take and return a state, as those of an LSTM

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _classes[_file_name(cls)] = cls

    @abstractmethod
    def parameters(self) -> dict[str, np.ndarray]:
        """Return the live arrays by name: writing into one changes the model."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Return the arguments of the constructor, in types that JSON has."""

    @classmethod
    def from_config(cls: type[Self], config: Mapping[str, Any]) -> Self:
        """Return a new module made with the arguments that `config()` returned."""
        return cls(**config)

    @classmethod
    def parameter_shapes(cls, *args: Any, **kwargs: Any) -> Iterable[tuple[str, Shape]]:
        """Yield names and shapes of the parameters that a module made with these arguments has.

        `load` compares them with the file before it builds a module. This general way builds one; a subclass
        overrides it, so that a file that asks for huge sizes costs nothing.
        """
        for name, array in cls(*args, **kwargs).parameters().items():
            yield name, array.shape

    @property
    def num_parameters(self) -> int:
        """Number of trainable values."""
        return sum(array.size for array in self.parameters().values())

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return copies of the parameters by name."""
        return {name: array.copy() for name, array in self.parameters().items()}

    def load_state_dict(self, state_dict: Mapping[str, ArrayLike]) -> None:
        """Copy values into the parameters, all of them or, on an error, none.

        Parameters
        ----------
        state_dict : mapping of str to array_like
            One array of the right shape per parameter; converted to the parameter's dtype. Tensors of PyTorch
            will do.

        Raises
        ------
        ValueError
            If names are missing or unexpected, or shapes are wrong; the message lists them all.
        TypeError
            If an array is complex or not numeric.

        Examples
        --------
        >>> import clstm
        >>> linear = clstm.Linear(2, 1, bias=False)
        >>> linear.load_state_dict({"weight": [[1.0, 2.0]]})
        >>> linear([10.0, 1.0])
        array([12.], dtype=float32)
        """
        parameters = self.parameters()
        values = matching_arrays(state_dict, parameters, f"state_dict of {type(self).__name__}")
        for name, array in parameters.items():
            array[...] = values[name]

    def save(
        self,
        path: FilePath,
        *,
        extra: Mapping[str, ArrayLike] | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Write parameters and configuration to a safetensors file, atomically.

        Parameters
        ----------
        path : path-like
            The file to write. On any error, an old file there stays as it was.
        extra : mapping of str to array_like, optional
            Arrays to keep beside the model, such as the state of an optimizer; `load` leaves them out and
            `read_extra` returns them.
        metadata : mapping of str to str, optional
            Text to keep beside the model; `read_extra` returns it.

        Raises
        ------
        OSError
            If the file cannot be written.

        Examples
        --------
        >>> import os, tempfile
        >>> import clstm
        >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
        >>> clstm.Linear(3, 2).save(path, metadata={"task": "an example"})
        >>> clstm.Linear.load(path)
        Linear(in_features=3, out_features=2, bias=True, dtype='float32')
        """
        import json  # here: see serialization.py

        taken = {**FORMAT, "config": json.dumps(describe(self), sort_keys=True)}
        if clash := sorted(taken.keys() & (metadata or {}).keys()):
            raise ValueError(f"metadata has the keys {', '.join(clash)}, which belong to the model")
        tensors = self.parameters() | {EXTRA + name: array for name, array in (extra or {}).items()}
        write_safetensors(path, tensors, {**taken, **(metadata or {})})

    @classmethod
    def load(cls: type[Self], path: FilePath) -> Self:
        """Return the module that `save` wrote to a file. `Module.load` takes any kind of module.

        Nothing in the file is executed: the configuration is JSON, and only subclasses of `Module` are made.

        Raises
        ------
        OSError
            If the file cannot be read.
        ValueError
            If the file is damaged, not a model of this library, or of another class.

        Examples
        --------
        See `save`.
        """
        tensors, metadata = read_safetensors(path)
        try:
            kind, config = _read_description(metadata)
            if not issubclass(kind, cls):
                raise ValueError(f"it holds a {kind.__name__}, not a {cls.__name__}")
            own = {name: array for name, array in tensors.items() if not name.startswith(EXTRA)}
            # Compared before anything is built, and not without end: a hostile file asks for any size or number.
            shapes = dict(islice(kind.parameter_shapes(**config), len(own) + 100))
            check_names_and_shapes({name: array.shape for name, array in own.items()}, shapes, kind.__name__)
            module = kind.from_config(config)
            module.load_state_dict(own)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise ValueError(f"{os.fsdecode(path)!r} cannot be loaded: {error}") from error
        return module

    def to_onnx(self, path: FilePath, *, states: bool = False, lengths: bool = False) -> None:
        """Write the module as an ONNX file; see `clstm.to_onnx`."""
        from .interop.onnx_export import to_onnx

        to_onnx(self, path, states=states, lengths=lengths)

    def __copy__(self: Self) -> Self:
        """Copies share no memory."""
        return copy.deepcopy(self)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.config().items())
        return f"{type(self).__name__}({arguments})"


class Parameter:
    """An attribute that is the live array of its name in `module.parameters()`, or None without one.

    Assigning copies the values into the array, so its shape, dtype and memory stay.
    """

    def __set_name__(self, owner: type[Module], name: str) -> None:
        self.name = name

    def __get__(self, module: Module | None, owner: type[Module]) -> Any:
        return self if module is None else module.parameters().get(self.name)

    def __set__(self, module: Module, value: ArrayLike) -> None:
        own = {name: array for name, array in module.parameters().items() if name == self.name}
        own[self.name][...] = matching_arrays({self.name: value}, own, type(module).__name__)[self.name]


def read_extra(path: FilePath) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the `extra` arrays and the `metadata` given to `Module.save`.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is not a complete, valid safetensors file.

    Examples
    --------
    >>> import os, tempfile
    >>> import clstm
    >>> model = clstm.Linear(3, 2)
    >>> optimizer = clstm.Adam(model)
    >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
    >>> model.save(path, extra=optimizer.state_dict(), metadata={"epoch": "7"})
    >>> extra, metadata = clstm.read_extra(path)
    >>> optimizer.load_state_dict(extra)
    >>> metadata
    {'epoch': '7'}
    """
    tensors, metadata = read_safetensors(path)
    extra = {name.removeprefix(EXTRA): array for name, array in tensors.items() if name.startswith(EXTRA)}
    return extra, {key: text for key, text in metadata.items() if key not in (*FORMAT, "config")}


def _file_name(kind: type[Module]) -> str:
    """What model files call a class."""
    own = kind.__module__.partition(".")[0] == __package__
    return kind.__name__ if own else f"{kind.__module__}.{kind.__qualname__}"


def describe(module: Module) -> dict[str, Any]:
    """Return class name and configuration of a module, in types that JSON has."""
    return {"class": _file_name(type(module)), "config": module.config()}


def read_class(description: Any) -> tuple[type[Module], dict[str, Any]]:
    """Return class and configuration from what `describe` returned; nothing about it is taken on trust."""
    if not isinstance(description, dict) or description.keys() != {"class", "config"}:
        raise ValueError(f"its configuration has {description!r:.80}, but a class and its config are expected")
    name, config = description["class"], description["config"]
    if not isinstance(name, str) or name not in _classes:
        raise ValueError(f"its configuration has the class {name!r:.80}, but known are {', '.join(sorted(_classes))}")
    if not isinstance(config, dict):
        raise ValueError(f"its configuration has the arguments {config!r:.80}, but names and values are expected")
    return _classes[name], config


def matching_arrays(
    values: Mapping[str, ArrayLike], expected: Mapping[str, np.ndarray], owner: str, *, copy: bool = True
) -> dict[str, np.ndarray]:
    """Return arrays of `values` with exactly the names, shapes and dtypes of `expected`.

    They are new ones or, with `copy=False`, the caller's where those have the dtype. Where any shares memory with
    `expected`, all are new.
    """
    if not isinstance(values, Mapping):
        raise TypeError(f"{owner} is a {type(values).__name__}, but a mapping of names to arrays is expected")
    arrays = {name: as_detached_array(f"{owner}: {name!r}", value) for name, value in values.items()}
    types = {name: array.dtype for name, array in arrays.items() if array.dtype.kind not in "iuf"}
    if types:
        wrong = ", ".join(f"{name!r} has dtype {dtype}" for name, dtype in types.items())
        raise TypeError(f"{owner}: {wrong}, but real numbers are expected")
    check_names_and_shapes(
        {name: array.shape for name, array in arrays.items()},
        {name: array.shape for name, array in expected.items()},
        owner,
    )
    copy = copy or any(np.may_share_memory(array, other) for array in arrays.values() for other in expected.values())
    convert = np.array if copy else np.asarray
    return {name: convert(arrays[name], dtype=array.dtype) for name, array in expected.items()}


def check_names_and_shapes(given: Mapping[str, Shape], expected: Mapping[str, Shape], owner: str) -> None:
    if problems := list(_differences(given, expected)):
        raise ValueError(f"{owner}: {'; '.join(problems)}")


def _differences(given: Mapping[str, Shape], expected: Mapping[str, Shape]) -> Iterator[str]:
    if missing := [repr(name) for name in expected if name not in given]:
        yield f"missing {', '.join(missing)}"
    if unexpected := [repr(name) for name in given if name not in expected]:
        yield f"unexpected {', '.join(unexpected)}"
    for name in expected:
        if name in given and given[name] != expected[name]:
            yield f"{name!r} has shape {given[name]}, but {expected[name]} is expected"


def _read_description(metadata: Mapping[str, str]) -> tuple[type[Module], dict[str, Any]]:
    """Class and configuration from the metadata of a file."""
    import json

    for key, text in FORMAT.items():
        if metadata.get(key) != text:
            raise ValueError(f"its metadata has the {key} {metadata.get(key)!r:.80}, but {text!r} is expected")
    try:
        description = json.loads(metadata.get("config", ""))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its configuration is not JSON: {error}") from error
    return read_class(description)
