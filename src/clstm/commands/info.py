"""`clstm info`."""

from __future__ import annotations

from argparse import Namespace

from ..charmodel import CharacterModel, read_training


def run(options: Namespace) -> int:
    """Print what a model file holds."""
    model, notes = CharacterModel.load(options.model), read_training(options.model)
    print(model.network)
    print(f"parameters  {model.network.num_parameters:,}")
    print(f"vocabulary  {len(model.vocabulary)} characters: {model.vocabulary.characters!r}")
    for name, value in notes.items():
        print(f"{name.replace('_', ' ')}  {_readable(value)}")
    return 0


def _readable(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {_readable(item)}" for name, item in value.items())
    if isinstance(value, list):
        return " ".join(map(_readable, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
