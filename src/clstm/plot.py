"""Pictures of what happens in an LSTM and in its training.

Each function returns a `matplotlib.figure.Figure`; `figure.savefig("gates.png")` writes it, a notebook shows it. See
`docs/inspection.md`. matplotlib is imported when one is drawn, and an ImportError says how to install it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from .arguments import as_size
from .commands.extras import HINT

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED, COLORS = "#222222", "#888888", ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # Okabe & Ito


def losses(
    characters: Sequence[int],
    training: Sequence[float],
    held_out: Mapping[int, float],
    baselines: Mapping[str, float],
) -> Figure:
    """Draw the loss curves of a training run.

    Parameters
    ----------
    characters, training : sequences of equal length
        Characters learned from up to each step, and the loss of the step in bits per character.
    held_out : mapping of int to float
        Loss on the held-out text after so many characters.
    baselines : mapping of str to float
        Losses of other models on the held-out text, by their names.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If there are no steps, or another number of losses than of steps.
    """
    if not len(training) or len(training) != len(characters):
        raise ValueError(
            f"training has {len(training)} losses, but one for each of the {len(characters)} steps of characters is "
            "expected, and at least one"
        )
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
    return figure


def gates(
    trace: Mapping[str, np.ndarray],
    name: str = "l0",
    *,
    row: int = 0,
    units: int = 24,
    labels: Sequence[str] | None = None,
) -> Figure:
    """Draw gates and cells over time, for a choice of units from the longest to the shortest memory.

    Parameters
    ----------
    trace : mapping of str to ndarray
        From `LSTM.trace`, with time on the first axis (not `batch_first`).
    name : str, default "l0"
        Layer and direction, such as "l1_reverse".
    row : int, default 0
        Which sequence of the batch.
    units : int, default 24
        How many units to show, evenly spread over the order by their mean forget gate.
    labels : sequence of str, optional
        What stands below each step, such as the characters read; the number of the step by default.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If the trace has no such layer and direction, no such row or no steps, if labels are not one for each step, or
        units less than 1.

    Examples
    --------
    See `docs/inspection.md`.
    """
    known = [key.removeprefix("c_") for key in trace if key.startswith("c_")]
    if name not in known:
        raise ValueError(f"name is {name!r}, but trace has {', '.join(known)}")
    steps, rows = (*trace[f"c_{name}"].shape[:-1], 1)[:2]
    row = as_size("row", row, least=0)
    if row >= rows:
        raise ValueError(f"row is {row}, but trace has {rows} rows")
    if not steps:
        raise ValueError("trace has no steps, but at least one is expected")
    values = {kind: trace[f"{kind}_{name}"].reshape(steps, rows, -1)[:, row] for kind in "ifgoc"}
    if labels is not None and len(labels) != steps:
        raise ValueError(f"labels has {len(labels)} entries, but trace has {steps} steps")
    order = np.argsort(-values["f"].mean(axis=0), kind="stable")
    chosen = order[np.linspace(0, len(order) - 1, min(as_size("units", units), len(order))).round().astype(int)]
    figure, panels = _figure(max(7.0, 0.15 * steps if labels is not None else 0), 10.0, 5)
    from matplotlib.colors import SymLogNorm

    titles = {
        "i": "input gate: how much of the new value enters the cell",
        "f": "forget gate: how much of the old cell stays",
        "g": "candidate: the new value",
        "o": "output gate: how much of the cell shows",
        "c": "cell: what is remembered (logarithmic colours beyond 1)",
    }
    largest = max(1.0, float(np.abs(values["c"]).max()))
    scales: dict[str, dict[str, Any]] = {kind: {"cmap": "viridis", "vmin": 0.0, "vmax": 1.0} for kind in "ifo"}
    scales["g"] = {"cmap": "RdBu_r", "vmin": -1.0, "vmax": 1.0}
    scales["c"] = {"cmap": "RdBu_r", "norm": SymLogNorm(1.0, vmin=-largest, vmax=largest)}
    for axes, (kind, title) in zip(panels, titles.items(), strict=True):
        image = axes.imshow(values[kind][:, chosen].T, aspect="auto", interpolation="nearest", **scales[kind])
        axes.set_title(title, loc="left")
        axes.set(yticks=[0, len(chosen) - 1], yticklabels=["long", "short"], ylabel="units,\nby memory")
        if labels is not None:
            shown = [str(label).replace(" ", "␣").replace("\n", "↵") for label in labels]
            axes.set_xticks(range(steps), shown, family="monospace")
        axes.tick_params(length=0)
        figure.colorbar(image, ax=axes, pad=0.01, fraction=0.03)
    panels[-1].set_xlabel("step" if labels is None else "step, by what is read")
    return figure


def gradient_flow(reach: Mapping[str, np.ndarray]) -> Figure:
    """Draw how large the gradient is t steps back, for several networks on one logarithmic axis.

    Parameters
    ----------
    reach : mapping of str to ndarray of shape (time, samples) or (time,)
        By the networks' names, the norm of the gradient t = 0, 1, ... steps back, as `lstm_gradient_reach` of
        `clstm.inspection` returns it. Drawn relative to t = 0: the geometric mean over the samples, and the range of
        the middle 80 %. Nothing is drawn where the gradient is 0.

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    See `docs/inspection.md`.
    """
    figure, axes = _figure(7.0, 4.4)
    for (name, norms), color in zip(reach.items(), cycle(COLORS), strict=False):
        norms = np.reshape(norms, (len(norms), -1))
        norms = np.where(norms > 0, norms, np.nan)
        decades = np.log10(norms) - np.log10(norms[:1])
        low, high = 10.0 ** np.quantile(decades, (0.1, 0.9), axis=1)
        axes.fill_between(range(len(norms)), low, high, color=color, alpha=0.15, lw=0)
        axes.plot(10.0 ** decades.mean(axis=1), color=color, lw=1.8, label=name)
    axes.set_yscale("log")
    axes.set(xlim=(0, None), ylim=(1e-16, 10), xlabel="steps back t")
    axes.set_ylabel(r"gradient $\|\partial L/\partial x_{T-t}\|$, relative to $t=0$")
    axes.set_title("How far back the gradient of a loss at step T reaches")
    axes.legend(frameon=False, loc="lower left")
    return figure


def _figure(width: float, height: float, rows: int = 1) -> tuple[Figure, Any]:
    """A figure of this size in inches, with axes under each other."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f"clstm.plot needs matplotlib, of the extra cli: {HINT}") from error

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows)
    for axes in np.ravel(panels):
        axes.spines[["top", "right"]].set_visible(False)
        axes.title.set_color(INK)
    return figure, panels
