"""Character models: networks that predict the next character of a text."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .embedding import Embedding
from .linear import Linear
from .losses import cross_entropy
from .lstm import LSTM
from .module import read_extra
from .sequential import Sequential
from .serialization import FilePath

TASK = "character model"  # what a model file says it is for


class Vocabulary:
    """The characters that a model knows, numbered in the order of their code points.

    Parameters
    ----------
    characters : str
        Each character once, in the order of the code points; at least one.

    Examples
    --------
    >>> from clstm.charmodel import Vocabulary
    >>> vocabulary = Vocabulary.of("banana")
    >>> vocabulary.characters, vocabulary.encode("nab").tolist()
    ('abn', [2, 0, 1])
    """

    def __init__(self, characters: str) -> None:
        if not characters or list(characters) != sorted(set(characters)):
            raise ValueError(f"characters is {characters!r:.80}, but each character once, in order, is expected")
        self.characters = characters
        self._codes = _code_points(characters)

    @classmethod
    def of(cls, text: str) -> Vocabulary:
        """Return the vocabulary of all characters of a text."""
        return cls("".join(sorted(set(text))))

    def __len__(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> np.ndarray:
        """Return the numbers of the characters, intp of shape (len(text),).

        Raises
        ------
        ValueError
            If a character is not in the vocabulary.
        """
        codes = _code_points(text)
        ids = np.minimum(np.searchsorted(self._codes, codes), len(self) - 1)
        unknown = self._codes[ids] != codes
        if unknown.any():
            position = int(np.argmax(unknown))
            raise ValueError(
                f"the character {text[position]!r} at position {position} is not among the {len(self)} that the model "
                "knows (`clstm info` lists them)"
            )
        return ids


class CharacterModel:
    """An embedding, an LSTM and a linear layer that predict each next character from all before it.

    Parameters
    ----------
    vocabulary : Vocabulary
        V characters.
    network : Sequential
        Embedding(V, E), LSTM(E, H), any variant, and Linear(H or proj_size, V), from numbers of characters,
        (time, batch), to logits, (time, batch, V).

    Raises
    ------
    ValueError
        If the network is not made of these parts.

    Examples
    --------
    >>> from itertools import islice
    >>> from clstm.charmodel import CharacterModel, Vocabulary
    >>> model = CharacterModel.new(Vocabulary.of("to be or not to be"), hidden_size=8, seed=0)
    >>> len("".join(islice(model.sample("to ", seed=0), 20)))
    20
    """

    def __init__(self, vocabulary: Vocabulary, network: Sequential) -> None:
        kinds = [type(part) for part in network]
        if kinds != [Embedding, LSTM, Linear]:
            names = ", ".join(kind.__name__ for kind in kinds)
            raise ValueError(f"network has the parts {names}, but Embedding, LSTM, Linear are expected")
        self.vocabulary = vocabulary
        self.network = network
        self.embedding, self.lstm, self.linear = network
        sizes = {
            "num_embeddings": (self.embedding.num_embeddings, len(vocabulary)),
            "input_size": (self.lstm.input_size, self.embedding.embedding_dim),
            "in_features": (self.linear.in_features, self.lstm.proj_size or self.lstm.hidden_size),
            "out_features": (self.linear.out_features, len(vocabulary)),
            "bidirectional": (self.lstm.bidirectional, False),
            "batch_first": (self.lstm.batch_first, False),
        }
        for name, (found, expected) in sizes.items():
            if found != expected:
                raise ValueError(f"network has {name} {found}, but {expected} is expected")

    @classmethod
    def new(
        cls,
        vocabulary: Vocabulary,
        *,
        embedding_size: int = 64,
        hidden_size: int = 256,
        num_layers: int = 1,
        dropout: float = 0.0,
        seed: int | None = None,
    ) -> CharacterModel:
        """Return an untrained model. `dropout` is that between the LSTM's layers."""
        seeds = np.random.SeedSequence(seed).generate_state(3, np.uint64)
        V = len(vocabulary)
        return cls(
            vocabulary,
            Sequential(
                Embedding(V, embedding_size, seed=seeds[0]),
                LSTM(embedding_size, hidden_size, num_layers, dropout=dropout, seed=seeds[1]),
                Linear(hidden_size, V, seed=seeds[2]),
            ),
        )

    def save(
        self, path: FilePath, training: Mapping[str, Any] | None = None, extra: Mapping[str, ArrayLike] | None = None
    ) -> None:
        """Write the model to a safetensors file, atomically.

        Parameters
        ----------
        path : path-like
        training : mapping, optional
            Notes on the training, in types that JSON has; `read_training` returns them.
        extra : mapping of str to array_like, optional
            Arrays beside the model, as in `Module.save`.
        """
        notes = {
            "task": TASK,
            "vocabulary": self.vocabulary.characters,
            "training": json.dumps(training or {}, sort_keys=True),
        }
        self.network.save(path, extra=extra, metadata=notes)

    @classmethod
    def load(cls, path: FilePath) -> CharacterModel:
        """Return the model that `save` wrote.

        Raises
        ------
        OSError
            If the file cannot be read.
        ValueError
            If the file is damaged or holds something else.
        """
        network = Sequential.load(path)
        notes = _read_notes(path)
        try:
            return cls(Vocabulary(notes.get("vocabulary", "")), network)
        except ValueError as error:
            raise ValueError(f"{os.fsdecode(path)!r} cannot be loaded as a character model: {error}") from error

    def bits_per_character(self, ids: np.ndarray, rows: int = 32, chunk: int = 256) -> float:
        """Return how many bits the model needs on average for each character of a text, given those before.

        Parameters
        ----------
        ids : ndarray of int, shape (characters,)
            The text, encoded; at least 2 characters.
        rows : int, default 32
            At most so many pieces of the text are read side by side, each from a zero state; fewer where they would
            be shorter than 500 characters.
        chunk : int, default 256
            Time steps per call. It bounds the memory and does not change the result.
        """
        streams = side_by_side(ids, max(1, min(rows, len(ids) // 500)))
        nats, state = 0.0, None
        for start in range(0, len(streams) - 1, chunk):
            targets = streams[start + 1 : start + 1 + chunk]
            logits, state = self.network(streams[start : start + len(targets)], state)
            nats += cross_entropy(logits, targets)[0] * targets.size
        return float(nats / math.log(2) / (streams.size - streams.shape[1]))

    def sample(self, prompt: str, *, temperature: float = 1.0, seed: int | None = None) -> Iterator[str]:
        """Return an endless iterator over characters that continue `prompt`.

        Parameters
        ----------
        prompt : str
            At least one character, all in the vocabulary.
        temperature : float, default 1.0
            What the logits are divided by before the softmax: lower is more cautious, 0 always takes the likeliest.
        seed : int, optional
            Makes the choice reproducible.

        Raises
        ------
        ValueError
            If an argument is out of range.
        """
        if not prompt:
            raise ValueError("prompt is empty, but at least one character is expected")
        if not 0 <= temperature < math.inf:
            raise ValueError(f"temperature is {temperature}, but a finite number of at least 0 is expected")
        return self._continue(self.vocabulary.encode(prompt), temperature, np.random.default_rng(seed))

    def _continue(self, prompt: np.ndarray, temperature: float, rng: np.random.Generator) -> Iterator[str]:
        stream = self.lstm.stream()
        for i in prompt[:-1]:
            stream.step(self.embedding(i))
        i = prompt[-1]
        while True:
            logits = self.linear(stream.step(self.embedding(i))).astype(np.float64)
            if not np.isfinite(logits).all():
                raise ValueError("the model's weights make its output NaN or infinite: its training has diverged")
            i = _choose(logits, temperature, rng)
            yield self.vocabulary.characters[i]


def read_training(path: FilePath) -> dict[str, Any]:
    """Return the notes on the training that `CharacterModel.save` was given."""
    try:
        notes = json.loads(_read_notes(path).get("training", "{}"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{os.fsdecode(path)!r} has notes on the training that are not JSON: {error}") from error
    if not isinstance(notes, dict):
        raise ValueError(f"{os.fsdecode(path)!r} has notes on the training that are not a JSON object")
    return notes


def side_by_side(ids: np.ndarray, rows: int) -> np.ndarray:
    """Cut a text into `rows` pieces of equal length, (time, rows); what is left at its end is dropped."""
    return np.ascontiguousarray(ids[: len(ids) // rows * rows].reshape(rows, -1).T)


def _read_notes(path: FilePath) -> dict[str, str]:
    notes = read_extra(path)[1]
    if notes.get("task") != TASK:
        raise ValueError(f"{os.fsdecode(path)!r} is not a {TASK}: `clstm train` makes one")
    return notes


def _choose(logits: np.ndarray, temperature: float, rng: np.random.Generator) -> int:
    """A class drawn from softmax(logits / temperature)."""
    if temperature == 0:
        return int(np.argmax(logits))
    weights = np.exp((logits - logits.max()) / temperature)
    cumulative = np.cumsum(weights)
    return int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
