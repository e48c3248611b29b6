"""Files of Keras 2 and 3: the configuration as JSON, and each layer's arrays in Keras's order.

`.keras` is a zip of config.json, metadata.json and model.weights.h5; `.h5` is HDF5 with the configuration in an
attribute; `.weights.h5` has no configuration.
"""

from __future__ import annotations

import io
import itertools
import json
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from ..serialization import FilePath, read_file
from .building import as_mapping, reading
from .hdf5 import SIGNATURE, Dataset, Group, open_hdf5

DEEPEST, MOST = 12, 20_000  # groups inside each other; objects in a file


class KerasFile(NamedTuple):
    """What was read."""

    config: Mapping[str, Any] | None  # class_name and config of the model; None for a file of weights
    version: int | None  # Keras's major version, if the file says so
    weights: dict[str, list[np.ndarray]]  # by name of the layer; those of a wrapped layer, forward before backward


def read_keras(path: FilePath) -> KerasFile:
    """Read a file of any of the three kinds. It raises what `from_keras` does."""
    data = read_file(path)
    with reading(path, KeyError, IndexError, EOFError, zipfile.BadZipFile, zlib.error):
        if data.startswith(b"PK"):
            return _read_zip(data)
        if data.startswith(SIGNATURE):
            return _read_hdf5(data, None, None)
        raise ValueError("it is neither a zip archive (.keras) nor HDF5 (.h5)")


def _read_zip(data: bytes) -> KerasFile:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if "model.weights.json" in archive.namelist():
            raise NotImplementedError("weights in several files are not supported")
        config = json.loads(_member(archive, "config.json", len(data)))
        metadata = as_mapping("metadata.json", json.loads(_member(archive, "metadata.json", len(data))))
        weights = _member(archive, "model.weights.h5", len(data))
    return _read_hdf5(weights, config, metadata.get("keras_version"))


def _member(archive: zipfile.ZipFile, name: str, size: int) -> bytes:
    """The content of a file in the archive, unless it would grow without measure."""
    if name not in archive.namelist():
        raise ValueError(f"the archive lacks {name}")
    info = archive.getinfo(name)
    if info.file_size > 20 * size:
        raise ValueError(f"{name} grows from {size} to {info.file_size} bytes")
    if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise NotImplementedError(f"{name} is encrypted, or compressed in an unusual way")
    with archive.open(info) as file:
        return file.read(info.file_size)


def _read_hdf5(data: bytes, config: Any, version: Any) -> KerasFile:
    file = open_hdf5(data)
    if "model_config" in file.attributes:
        config, version = json.loads(_text(file, "model_config")), file.attributes.get("keras_version")
    if config is not None:
        config = as_mapping("the configuration", config, "class_name", "config")
    group = file.group("model_weights") if "model_weights" in file else file
    by_name = any(key.startswith("layer_names") for key in group.attributes)
    weights = dict(_weights_by_name(group) if by_name else _weights_by_position(group, config))
    major = re.match(r"\d+", str(version or ""))
    return KerasFile(config, int(major[0][:9]) if major else None, weights)


def _text(group: Group, name: str) -> str:
    value = group.attributes[name]
    if not isinstance(value, str):
        raise ValueError(f"{name} is a list, but one text is expected")
    return value


def _texts(group: Group, name: str) -> list[str]:
    """A list in an attribute; a long one is cut into name0, name1, ..."""
    if name in group.attributes:
        value = group.attributes[name]
        return value if isinstance(value, list) else [value]
    texts: list[str] = []
    for i in itertools.count():
        if f"{name}{i}" not in group.attributes:
            return texts
        texts += group.attributes[f"{name}{i}"]
    raise AssertionError


def _weights_by_name(group: Group) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Keras 2, and Keras 3's .h5: attributes list the layers and their arrays."""
    for layer in _texts(group, "layer_names"):
        arrays = group.group(layer)
        yield layer, [_array(arrays, name) for name in _texts(arrays, "weight_names")]


def _weights_by_position(group: Group, config: Any) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Keras 3: a group per layer, called by its class and a number; newer files keep its name in an attribute."""
    for folder in ("layers", "_layer_checkpoint_dependencies"):
        if folder in group:
            group = group.group(folder)
            break
    names = _names_by_position(config)
    count = [0]
    for key in group:
        layer = group[key]
        if key in ("vars", "optimizer") or not isinstance(layer, Group):
            continue
        own = layer.group("vars").attributes.get("name") if "vars" in layer else None
        yield own if isinstance(own, str) else names.get(key, key), list(_arrays_below(layer, 0, count))


def _names_by_position(config: Any) -> dict[str, str]:
    """Names of layers by what Keras 3 calls their groups: lstm, lstm_1, ..."""
    names: dict[str, str] = {}
    used: dict[str, int] = {}
    for layer in layers_of(config) if config else ():
        key = re.sub(
            r"([a-z])([A-Z])", r"\1_\2", re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", layer["class_name"])
        ).lower()
        used[key] = used.get(key, -1) + 1
        names[f"{key}_{used[key]}" if used[key] else key] = layer["config"]["name"]
    return names


def layers_of(config: Any) -> list[Mapping[str, Any]]:
    """Class and configuration of each layer of a model."""
    inner = config["config"]
    layers = inner if isinstance(inner, list) else as_mapping("the configuration", inner, "layers")["layers"]
    if not isinstance(layers, list):
        raise ValueError("the configuration has no list of layers")
    for layer in layers:
        as_mapping("a layer", layer, "class_name", "config")
        as_mapping("the configuration of a layer", layer["config"])
        if not isinstance(layer["class_name"], str):
            raise ValueError(f"a layer is of class {layer['class_name']!r:.60}")
        layer["config"].setdefault("name", layer.get("name", layer["class_name"]))
    return layers


def _arrays_below(group: Group, depth: int, count: list[int]) -> Iterator[np.ndarray]:
    """A layer's own variables, then those of the layers inside it."""
    if depth > DEEPEST:
        raise ValueError(f"groups stand more than {DEEPEST} deep inside each other")
    if "vars" in group:
        own = group.group("vars")
        yield from (_array(own, key) for key in sorted(own, key=_number))
    inner = [key for key in group if key not in ("vars", "seed_generator")]
    for key in sorted(inner, key=lambda key: (key != "forward_layer", key)):
        count[0] += 1
        if count[0] > MOST:
            raise ValueError(f"the file has more than {MOST} groups")
        yield from _arrays_below(group.group(key), depth + 1, count)


def _number(key: str) -> tuple[int, str]:
    return (int(key), "") if re.fullmatch(r"[0-9]{1,9}", key) else (2**31, key)


def _array(group: Group, name: str) -> np.ndarray:
    dataset = group[name]
    if not isinstance(dataset, Dataset):
        raise ValueError(f"{name!r:.60} is a group, but an array is expected")
    return dataset.read()
