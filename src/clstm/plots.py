"""The pictures of `clstm demo`. matplotlib is imported when one is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .inspection import Gates
from .serialization import FilePath

INK, MUTED, COLORS = "#222222", "#888888", ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # Okabe & Ito


def draw_losses(
    path: FilePath,
    characters: Sequence[int],
    training: Sequence[float],
    held_out: Mapping[int, float],
    baselines: Mapping[str, float],
) -> None:
    """Draw the loss curves of a training run.

    Parameters
    ----------
    path : path-like
        The PNG file to write.
    characters, training : sequences of equal length
        Characters learned from up to each step, and the loss of the step in bits per character.
    held_out : mapping of int to float
        Loss on the held-out text after so many characters.
    baselines : mapping of str to float
        Losses of other models on the held-out text, by their names.
    """
    figure, axes = _figure(7.0, 4.2)
    millions = np.array(characters) / 1e6
    window = max(1, len(training) // 100)
    smooth = np.convolve(training, np.full(window, 1.0 / window), "valid")
    axes.plot(millions[window - 1 :], smooth, color=COLORS[0], lw=1.2, label=f"training, mean of {window} steps")
    axes.plot(np.array(list(held_out)) / 1e6, list(held_out.values()), "o-", color=COLORS[1], label="held out")
    for name, bits in baselines.items():
        axes.axhline(bits, color=MUTED, lw=0.8, ls=":")
        label = name.replace(" ", "\n", 1)
        axes.text(1.01, bits, label, transform=axes.get_yaxis_transform(), va="center", color=MUTED)
    axes.set(xlabel="characters learned from (millions)", ylabel="loss (bits per character)", xlim=(0, None))
    axes.set_title("Learning to predict the next character")
    axes.legend(frameon=False)
    figure.savefig(path)


def draw_gates(path: FilePath, sentence: str, gates: Gates, units: int = 24) -> None:
    """Draw gates and cells over a sentence, for a choice of units from the longest to the shortest memory.

    Parameters
    ----------
    path : path-like
        The PNG file to write.
    sentence : str
        What was read, one character per step.
    gates : Gates
        (time, hidden_size) each, with time = len(sentence).
    units : int, default 24
        How many units to show, evenly spread over the order by their mean forget gate.
    """
    from matplotlib.colors import SymLogNorm

    order = np.argsort(-gates.f.mean(axis=0))
    chosen = order[np.linspace(0, len(order) - 1, min(units, len(order))).round().astype(int)]
    figure, panels = _figure(max(7.0, 0.15 * len(sentence)), 8.4, 4)
    titles = {
        "i": "input gate: how much of the new value enters the cell",
        "f": "forget gate: how much of the old cell stays",
        "o": "output gate: how much of the cell shows",
        "c": "cell: what is remembered (logarithmic colours beyond 1)",
    }
    largest = float(np.abs(gates.c).max())
    of_gates = {"cmap": "viridis", "vmin": 0.0, "vmax": 1.0}
    of_cells = {"cmap": "RdBu_r", "norm": SymLogNorm(1.0, vmin=-largest, vmax=largest)}
    for axes, (name, title) in zip(panels, titles.items(), strict=True):
        values = getattr(gates, name)[:, chosen].T
        scale: dict[str, Any] = of_cells if name == "c" else of_gates
        image = axes.imshow(values, aspect="auto", interpolation="nearest", **scale)
        axes.set_title(title, loc="left")
        axes.set(yticks=[0, len(chosen) - 1], yticklabels=["long", "short"], ylabel="units,\nby memory")
        axes.set_xticks(range(len(sentence)), sentence.replace(" ", "␣").replace("\n", "↵"), family="monospace")
        axes.tick_params(length=0)
        figure.colorbar(image, ax=axes, pad=0.01, fraction=0.03)
    panels[-1].set_xlabel("character read")
    figure.savefig(path)


def draw_gradient_reach(path: FilePath, reach: Mapping[str, np.ndarray]) -> None:
    """Draw how large the gradient is t steps back, for several networks on one logarithmic axis.

    Parameters
    ----------
    path : path-like
        The PNG file to write.
    reach : mapping of str to ndarray of shape (time, samples)
        By the networks' names, the norm of the gradient t = 0, 1, ... steps back. Drawn relative to t = 0: the
        geometric mean over the samples, and the range of the middle 80 %.
    """
    figure, axes = _figure(7.0, 4.4)
    for (name, norms), color in zip(reach.items(), COLORS, strict=False):
        with np.errstate(divide="ignore"):
            decades = np.log10(norms) - np.log10(norms[:1])
        low, high = 10.0 ** np.quantile(decades, (0.1, 0.9), axis=1)
        axes.fill_between(range(len(norms)), low, high, color=color, alpha=0.15, lw=0)
        axes.plot(10.0 ** decades.mean(axis=1), color=color, lw=1.8, label=name)
    axes.set_yscale("log")
    axes.set(xlim=(0, None), ylim=(1e-16, 10), xlabel="steps back t (characters)")
    axes.set_ylabel(r"gradient $\|\partial L/\partial x_{T-t}\|$, relative to $t=0$")
    axes.set_title("How far back the gradient of a loss at step T reaches")
    axes.legend(frameon=False, loc="lower left")
    figure.savefig(path)


def _figure(width: float, height: float, rows: int = 1) -> tuple[Any, Any]:
    """A figure of this size in inches that can only be saved, with axes under each other."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows)
    for axes in np.ravel(panels):
        axes.spines[["top", "right"]].set_visible(False)
        axes.title.set_color(INK)
    return figure, panels
