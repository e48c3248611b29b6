"""`clstm demo`."""

from __future__ import annotations

import time
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np

from .. import plot
from ..blas import set_blas_threads
from ..charmodel import CharacterModel
from ..inspection import lstm_gradient_reach, rnn_gradient_reach
from ..lstm import LSTM
from ..runtime import cpu_info, get_num_threads, set_num_threads
from ..schedules import cosine
from ..trainer import Settings, Trainer
from .extras import HINT, Progress, has_matplotlib
from .ngrams import ngram_bits

PROMPT = "The "
SENTENCE = "The statement raises a ValueError if the list is empty."
SERVED = 100  # characters in each sequence that is served
SERVING_SECONDS = 1.5  # to measure for, each time
REACH = 200  # steps that the gradient is followed back
EVALUATIONS = 6  # of the held-out text, fewer where they would take more than a twentieth of the time


@dataclass
class Curves:
    """The losses of a run in bits per character."""

    characters: list[int] = field(default_factory=list)  # learned from up to each step
    training: list[float] = field(default_factory=list)  # of each step
    held_out: dict[int, float] = field(default_factory=dict)  # after so many characters


def run(options: Namespace) -> int:
    """Train on the help texts of Python, then sample, save, load, serve and draw."""
    began = time.monotonic()
    set_blas_threads(1)
    folder = Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)

    text = python_help()
    settings = Settings(hidden=options.hidden, seed=options.seed)
    trainer = Trainer(text, settings)
    model = trainer.model
    print(
        f"Text: {len(text):,} characters of Python's help, paragraphs that come again left out; "
        f"the last {len(trainer.held_out_text):,} are held out."
    )
    print(
        f"Model: {model.network.num_parameters:,} parameters, LSTM with {settings.hidden} hidden units, on "
        f"{get_num_threads()} threads with {cpu_info()['isa']}."
    )

    print(f"\nTraining for {options.seconds:g} seconds:")
    curves = train(trainer, options.seconds)
    baselines = {
        name: ngram_bits(trainer.training_text, trainer.held_out_text, order, len(model.vocabulary))
        for order, name in ((1, "counting characters"), (2, "counting pairs"), (5, "counting runs of 5"))
    }
    bits = list(curves.held_out.values())[-1]
    print(
        f"Held-out loss: {bits:.3f} bits per character.  For comparison: "
        + ", ".join(f"{name} {value:.3f}" for name, value in baselines.items())
        + "."
    )

    print(f"\nA sample, after the prompt {PROMPT!r}:\n")
    sample = "".join(islice(model.sample(PROMPT, temperature=0.7, seed=options.seed), 500))
    print("    " + (PROMPT + sample).replace("\n", "\n    "))

    path = folder / "model.safetensors"
    trainer.save_model(path)
    loaded = CharacterModel.load(path)
    check_same(model, loaded, trainer.held_out_text)
    print(f"\nSaved as {path} ({path.stat().st_size / 1e6:.1f} MB) and loaded again: the outputs agree in every bit.")

    print(f"\nServing sequences of {SERVED} characters, one call each:")
    serve(loaded, trainer.held_out_text)

    print()
    if has_matplotlib():
        draw(folder, loaded, trainer.held_out_text, curves, baselines)
        print(f"Pictures: {folder}/loss.png, gates.png, gradient.png")
    else:
        print(f"There are no pictures, as matplotlib is missing: {HINT}.")
    print(f"Go on with: clstm sample {path} --prompt {PROMPT.strip()!r}")
    print(f"Done in {time.monotonic() - began:.0f} seconds.")
    return 0


def python_help() -> str:
    """The help texts of Python, each paragraph once, so that none of them is both learned from and held out."""
    paragraphs = "\n\n".join(topics.values()).split("\n\n")
    return "\n\n".join(dict.fromkeys(paragraphs))


def train(trainer: Trainer, seconds: float) -> Curves:
    """Take steps until the time is over; the learning rate follows the clock, so that any machine anneals in time."""
    schedule = cosine(trainer.settings.lr, 1000, 50, trainer.settings.lr / 50)
    curves, characters = Curves(), 0
    began, evaluating = time.monotonic(), 0.0
    with Progress() as progress:

        def evaluate() -> None:
            bits = trainer.model.bits_per_character(trainer.held_out_text)
            curves.held_out[characters] = bits
            progress.print(f"  after {characters:9,} characters: {bits:.3f} bits per character held out")

        while (elapsed := time.monotonic() - began) < seconds:
            bits = trainer.step(schedule(int(1000 * elapsed / seconds)))
            characters += trainer.characters_per_step
            curves.characters.append(characters)
            curves.training.append(bits)
            now = time.monotonic() - began
            progress.show(min(1.0, now / seconds), bits, characters / (now - evaluating))
            is_due = now * EVALUATIONS > seconds * (len(curves.held_out) + 1)
            if is_due and evaluating < now / 20:
                evaluate()
                evaluating += time.monotonic() - began - now
        if characters not in curves.held_out:
            evaluate()
    return curves


def check_same(model: CharacterModel, loaded: CharacterModel, ids: np.ndarray) -> None:
    """Make sure that two models give the same bytes."""
    x = ids[:1000, None]
    if model.network(x)[0].tobytes() != loaded.network(x)[0].tobytes():
        raise ValueError("the loaded model's output differs from the saved one's: please report this")


def serve(model: CharacterModel, ids: np.ndarray) -> None:
    """Run many sequences on one model, from one thread and from as many as there are processors."""
    sequences = list(ids[: len(ids) // SERVED * SERVED].reshape(-1, SERVED, 1))
    before = get_num_threads()
    set_num_threads(1)  # each call stays on the thread that makes it
    try:
        speed, outputs = serve_from(1, model, sequences)
        print(f"  1 thread: {speed:,.0f} sequences/s")
        threads = max(2, before)
        speed_of_all, outputs_of_all = serve_from(threads, model, sequences)
        same = outputs == outputs_of_all
        print(
            f"  {threads} threads: {speed_of_all:,.0f} sequences/s, {speed_of_all / speed:.2f} times as many, "
            f"{'the same bytes' if same else 'BUT OTHER BYTES'}"
        )
    finally:
        set_num_threads(before)


def serve_from(threads: int, model: CharacterModel, sequences: list[np.ndarray]) -> tuple[float, list[bytes]]:
    """Sequences per second, and the output for each sequence."""

    def answer(sequence: np.ndarray) -> bytes:
        return model.network(sequence)[0].tobytes()

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(answer, sequences[: 2 * threads]))  # starts the threads
        served, began = 0, time.monotonic()
        while (elapsed := time.monotonic() - began) < SERVING_SECONDS:
            outputs = list(pool.map(answer, sequences))
            served += len(sequences)
    return served / elapsed, outputs


def draw(folder: Path, model: CharacterModel, ids: np.ndarray, curves: Curves, baselines: dict[str, float]) -> None:
    """Write the pictures."""
    trace = model.lstm.trace(model.embedding(model.vocabulary.encode(SENTENCE)))
    pictures = {
        "loss.png": plot.losses(curves.characters, curves.training, curves.held_out, baselines),
        "gates.png": plot.gates(trace, labels=SENTENCE),
        "gradient.png": plot.gradient_flow(gradient_reach(model, ids)),
    }
    for name, figure in pictures.items():
        figure.savefig(folder / name)


def gradient_reach(model: CharacterModel, ids: np.ndarray, rows: int = 4, networks: int = 3) -> dict[str, np.ndarray]:
    """Norms of gradients, (REACH, samples), by the names of networks that read the same text.

    A sample is one row of text, a random direction of the last output as its loss, and one of `networks` new
    networks. The plain network starts from the LSTM's own weights for new values: it is the LSTM without cell and
    gates.
    """
    x = model.embedding(ids[-rows * REACH :].reshape(rows, REACH).T).astype(np.float64)
    H, rng = model.lstm.hidden_size, np.random.default_rng(0)
    dh = rng.standard_normal((rows, H))
    trained = LSTM(**model.lstm.config() | {"dtype": "float64"})
    trained.load_state_dict(model.lstm.state_dict())
    new = [LSTM(x.shape[2], H, dtype="float64", seed=seed) for seed in range(networks)]
    plain = [(lstm.weight_ih_l0[2 * H : 3 * H], lstm.weight_hh_l0[2 * H : 3 * H]) for lstm in new]
    return {
        "LSTM, as trained here": lstm_gradient_reach(trained, x, dh),
        "LSTM, new": np.concatenate([lstm_gradient_reach(lstm, x, dh) for lstm in new], axis=1),
        "tanh RNN of the same size, new": np.concatenate([rnn_gradient_reach(*w, x, dh) for w in plain], axis=1),
    }
