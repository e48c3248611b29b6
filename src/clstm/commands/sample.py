"""`clstm sample`."""

from __future__ import annotations

import sys
from argparse import Namespace
from itertools import islice

from ..charmodel import CharacterModel


def run(options: Namespace) -> int:
    """Print a prompt and what a model continues it with, each character as it comes."""
    model = CharacterModel.load(options.model)
    prompt = options.prompt or default_prompt(model)
    continuation = model.sample(prompt, temperature=options.temperature, seed=options.seed)
    sys.stdout.write(options.prompt)
    for character in islice(continuation, options.length):
        sys.stdout.write(character)
        sys.stdout.flush()
    sys.stdout.write("\n")
    return 0


def default_prompt(model: CharacterModel) -> str:
    """What a model reads where there is no prompt: a line's end, if it knows one."""
    characters = model.vocabulary.characters
    return "\n" if "\n" in characters else characters[0]
