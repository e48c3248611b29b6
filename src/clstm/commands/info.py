"""`clstm info`."""

from __future__ import annotations

from argparse import Namespace

from ..charmodel import TASK, CharacterModel, read_training
from ..module import Module, read_extra


def run(options: Namespace) -> int:
    """Print what a model file holds."""
    network = Module.load(options.model)
    print(network)
    print(f"parameters  {network.num_parameters:,}")
    if read_extra(options.model)[1].get("task") != TASK:
        return 0
    vocabulary = CharacterModel.load(options.model).vocabulary
    print(f"vocabulary  {len(vocabulary)} characters: {vocabulary.characters!r}")
    for name, value in read_training(options.model).items():
        print(_printable(f"{name.replace('_', ' ')}  {_readable(value)}"))
    return 0


def _printable(text: str) -> str:
    """A file may hold anything: nothing that a terminal would obey is printed."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def _readable(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {_readable(item)}" for name, item in value.items())
    if isinstance(value, list):
        return " ".join(map(_readable, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
