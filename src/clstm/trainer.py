"""Training of character models, in runs that can stop after any step and go on later to the same bytes."""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .charmodel import CharacterModel, Vocabulary, read_training, side_by_side
from .losses import cross_entropy
from .module import read_extra
from .optim import AdamW, clip_grad_norm
from .schedules import cosine
from .sequential import State
from .serialization import FilePath


@dataclass(frozen=True)
class Settings:
    """All that, beside the text, decides the outcome of a run."""

    layers: int = 1
    hidden: int = 256
    embedding: int = 64
    dropout: float = 0.0  # between layers
    epochs: int = 10
    batch_size: int = 16  # pieces of the text that are read side by side
    sequence_length: int = 64  # characters that the gradient reaches back
    lr: float = 6e-3  # the highest; see `Trainer.learning_rate`
    weight_decay: float = 0.01
    clip: float = 1.0  # bound on the gradient's norm
    held_out: float = 0.1  # share of the text, at its end
    seed: int = 0


class Trainer:
    """Trains a `CharacterModel` on a text by truncated backpropagation through time.

    The text without its held-out end is cut into `batch_size` pieces, which are read side by side, `sequence_length`
    characters per step. The LSTM's state is carried from step to step, the gradient is not. An epoch reads every
    piece once and starts from a zero state.

    Parameters
    ----------
    text : str
    settings : Settings

    Attributes
    ----------
    model : CharacterModel
    steps : int
        Steps done so far.
    held_out_bits, training_bits : list of float
        Bits per character for each epoch so far: of the held-out text after it, and the mean over its steps.

    Raises
    ------
    ValueError
        If the text is too short for the settings, or one of them is out of range.

    Examples
    --------
    >>> from clstm.trainer import Settings, Trainer
    >>> trainer = Trainer("to be or not to be " * 100, Settings(hidden=16, batch_size=4, sequence_length=20, epochs=2))
    >>> while not trainer.done:
    ...     bits = trainer.step(trainer.learning_rate())
    ...     if trainer.at_epoch_end:
    ...         trainer.end_epoch()
    >>> len(trainer.held_out_bits)
    2
    """

    def __init__(self, text: str, settings: Settings) -> None:
        vocabulary = Vocabulary.of(text) if text else Vocabulary(" ")
        ids = vocabulary.encode(text)
        cut = len(ids) - max(2, round(len(ids) * settings.held_out))
        needed = settings.batch_size * (settings.sequence_length + 1)
        if cut < needed:
            raise ValueError(
                f"the text has {len(ids):,} characters, {max(cut, 0):,} of them to learn from, but batch size "
                f"{settings.batch_size} x (sequence length {settings.sequence_length} + 1) needs {needed:,}"
            )
        self.settings = settings
        self.fingerprint = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        self.training_text, self.held_out_text = ids[:cut], ids[cut:]
        self._streams = side_by_side(self.training_text, settings.batch_size)
        self.steps_per_epoch = math.ceil((len(self._streams) - 1) / settings.sequence_length)
        self.total_steps = settings.epochs * self.steps_per_epoch
        self.model = CharacterModel.new(
            vocabulary,
            embedding_size=settings.embedding,
            hidden_size=settings.hidden,
            num_layers=settings.layers,
            dropout=settings.dropout,
            seed=settings.seed,
        )
        self.optimizer = AdamW(self.model.network, lr=settings.lr, weight_decay=settings.weight_decay)
        self._schedule = cosine(settings.lr, self.total_steps, self.total_steps // 20, settings.lr / 50)
        self._state: State | None = None
        self._epoch_bits = 0.0  # sum over the steps of this epoch
        self.steps = 0
        self.held_out_bits: list[float] = []
        self.training_bits: list[float] = []

    @property
    def done(self) -> bool:
        """Whether all epochs are over."""
        return len(self.held_out_bits) == self.settings.epochs

    @property
    def at_epoch_end(self) -> bool:
        """Whether `end_epoch` is due."""
        return self.steps == (len(self.held_out_bits) + 1) * self.steps_per_epoch

    @property
    def characters_per_step(self) -> int:
        """Characters that a step learns from; the last step of an epoch may have fewer."""
        return self.settings.batch_size * self.settings.sequence_length

    def learning_rate(self) -> float:
        """Learning rate of the next step: a warm-up over a twentieth of the run, then a cosine down to lr / 50."""
        return self._schedule(self.steps)

    def step(self, lr: float) -> float:
        """Take one step with the learning rate `lr`, and return the loss before it in bits per character.

        Raises
        ------
        ValueError
            If the loss is not finite. Nothing was updated then.
        """
        T, position = self.settings.sequence_length, self.steps % self.steps_per_epoch
        if position == 0:
            self._state = None
        targets = self._streams[position * T + 1 : position * T + 1 + T]
        x = self._streams[position * T : position * T + len(targets)]
        logits, self._state, tape = self.model.network.forward(x, self._state)
        loss, dlogits = cross_entropy(logits, targets)
        if not math.isfinite(loss):
            raise ValueError(f"the loss is {loss} after {self.steps:,} steps: a lower learning rate may help")
        _, _, grads = self.model.network.backward(tape, dlogits)
        clip_grad_norm(grads, self.settings.clip)
        self.optimizer.lr = lr
        self.optimizer.step(grads)
        self.steps += 1
        bits = loss / math.log(2)
        self._epoch_bits += bits
        return bits

    def end_epoch(self) -> None:
        """Measure the held-out text, and note the losses."""
        self.held_out_bits.append(self.model.bits_per_character(self.held_out_text))
        self.training_bits.append(self._epoch_bits / self.steps_per_epoch)
        self._epoch_bits = 0.0

    @property
    def is_best(self) -> bool:
        """Whether the last epoch has the lowest held-out loss so far."""
        return self.held_out_bits.index(min(self.held_out_bits)) == len(self.held_out_bits) - 1

    def notes(self) -> dict[str, Any]:
        """Return what a model file says about its training."""
        return {
            "settings": asdict(self.settings),
            "text_sha256": self.fingerprint,
            "training_characters": len(self.training_text),
            "held_out_characters": len(self.held_out_text),
            "steps": self.steps,
            "held_out_bits": self.held_out_bits,
            "training_bits": self.training_bits,
        }

    def save_model(self, path: FilePath) -> None:
        """Write the model as it is now, with notes on its training."""
        self.model.save(path, self.notes())

    def save_checkpoint(self, path: FilePath) -> None:
        """Write all that `load_checkpoint` needs to go on. The file is a model file, too."""
        arrays = {f"optimizer.{name}": array for name, array in self.optimizer.state_dict().items()}
        if self._state is not None:
            arrays |= dict(zip(("h", "c"), self._state[0], strict=True))
        arrays["dropout_counter"] = np.array(self.model.lstm.dropout_counter)
        arrays["epoch_bits"] = np.array(self._epoch_bits)
        self.model.save(path, self.notes(), arrays)

    def load_checkpoint(self, path: FilePath) -> None:
        """Go on from a checkpoint of the same text and settings; on an error nothing changes.

        Raises
        ------
        OSError
            If the file cannot be read.
        ValueError
            If it is no checkpoint, or of another text or other settings.
        """
        model, notes, (arrays, _) = CharacterModel.load(path), read_training(path), read_extra(path)
        self._check_same_run(path, notes)
        try:
            if model.network.config() != self.model.network.config():
                raise ValueError("its network is another one")
            dropout_counter, epoch_bits = int(arrays["dropout_counter"]), float(arrays["epoch_bits"])
            state = ((arrays["h"], arrays["c"]),) if "h" in arrays else None
            held_out_bits, training_bits = (
                [float(bits) for bits in notes[name]] for name in ("held_out_bits", "training_bits")
            )
            steps = int(notes["steps"])
            self.optimizer.load_state_dict(
                {key.removeprefix("optimizer."): a for key, a in arrays.items() if key.startswith("optimizer.")}
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{os.fsdecode(path)!r} is not a checkpoint of a training run: {error}") from error
        self.model.network.load_state_dict(model.network.state_dict())
        self.model.lstm.dropout_counter = dropout_counter
        self._epoch_bits, self._state, self.steps = epoch_bits, state, steps
        self.held_out_bits, self.training_bits = held_out_bits, training_bits

    def _check_same_run(self, path: FilePath, notes: dict[str, Any]) -> None:
        theirs = notes.get("settings")
        if not isinstance(theirs, dict):
            raise ValueError(f"{os.fsdecode(path)!r} is not a checkpoint of a training run")
        differences = [
            f"{name.replace('_', ' ')} {theirs.get(name)!r} there, {value!r} here"
            for name, value in asdict(self.settings).items()
            if theirs.get(name) != value
        ]
        if notes.get("text_sha256") != self.fingerprint:
            differences.append("another text")
        if differences:
            raise ValueError(
                f"{os.fsdecode(path)!r} belongs to another run ({'; '.join(differences)}): "
                "repeat that run's command to go on with it, or delete the file to start anew"
            )
