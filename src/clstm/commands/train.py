"""`clstm train`."""

from __future__ import annotations

import errno
import os
import signal
import time
from argparse import Namespace
from dataclasses import fields
from types import FrameType
from typing import Any

from ..blas import set_blas_threads
from ..trainer import Settings, Trainer
from .extras import Progress


class Interruption:
    """While it is entered, Ctrl-C and SIGTERM are only noted in `signal`; the second one acts as always."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        self._handlers = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error: object) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)


def run(options: Namespace) -> int:
    """Train a model on a text file, or go on with an interrupted run."""
    if options.dropout and options.layers == 1:
        raise ValueError("--dropout acts between layers: it needs --layers 2 or more")
    set_blas_threads(1)
    settings = Settings(**{field.name: getattr(options, field.name) for field in fields(Settings)})
    trainer = Trainer(read_text(options.file), settings)
    checkpoint = f"{options.output}.checkpoint"
    if os.path.exists(checkpoint):
        trainer.load_checkpoint(checkpoint)
        print(f"Going on from {checkpoint}, after {trainer.steps:,} of {trainer.total_steps:,} steps.")
    elif os.path.exists(options.output):
        advice = "there is a model already: move it away, or choose another --output"
        raise FileExistsError(errno.EEXIST, advice, options.output)
    else:
        print(
            f"{trainer.model.network.num_parameters:,} parameters, {len(trainer.training_text):,} characters to learn "
            f"from, {len(trainer.held_out_text):,} held out."
        )
    trainer.save_checkpoint(checkpoint)  # shows at once whether it can be written
    with Interruption() as interruption:
        _train(trainer, options, checkpoint, interruption)
    if interruption.signal is not None:
        print(
            f"Stopped after {trainer.steps:,} of {trainer.total_steps:,} steps, all kept in {checkpoint}. "
            "The same command goes on from there."
        )
        return 128 + interruption.signal
    os.unlink(checkpoint)
    best = min(trainer.held_out_bits)
    epoch = trainer.held_out_bits.index(best) + 1
    print(f"{options.output} is the model after epoch {epoch}: {best:.3f} bits per character held out.")
    return 0


def _train(trainer: Trainer, options: Namespace, checkpoint: str, interruption: Interruption) -> None:
    """Take the steps that are left, until there is an interruption."""
    began, first, saved = time.monotonic(), trainer.steps, time.monotonic()
    with Progress(trainer.steps / trainer.total_steps) as progress:
        while not trainer.done and interruption.signal is None:
            bits = trainer.step(trainer.learning_rate())
            now = time.monotonic()
            speed = (trainer.steps - first) * trainer.characters_per_step / (now - began)
            progress.show(trainer.steps / trainer.total_steps, bits, speed)
            due = now - saved >= options.checkpoint_seconds
            if trainer.at_epoch_end:
                trainer.end_epoch()
                progress.print(epoch_line(trainer))
                if trainer.is_best:
                    trainer.save_model(options.output)
                due = True
            if due:
                trainer.save_checkpoint(checkpoint)
                saved = now
    trainer.save_checkpoint(checkpoint)


def epoch_line(trainer: Trainer) -> str:
    """The losses of the last epoch."""
    epoch = len(trainer.held_out_bits)
    best = ", the best so far" if trainer.is_best else ""
    return (
        f"epoch {epoch:3} of {trainer.settings.epochs}: {trainer.training_bits[-1]:.3f} bits per character, "
        f"{trainer.held_out_bits[-1]:.3f} held out{best}"
    )


def read_text(path: str) -> str:
    """Read a UTF-8 text file."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            return file.read()
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise ValueError(
            f"{path!r} is not a UTF-8 text: it has the byte {byte:#04x} at position {error.start}"
        ) from None
