"""Results as text, Markdown and a plot."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from shapes import KINDS, Shape

Result = dict[str, Any]
Rows = list[list[str]]

READING = """\
`make bench` writes this page. How to read it:

- All libraries run in one process and take turns of two milliseconds or one call, whichever is longer, so that
  whatever else the machine does hits them alike. A call much shorter than its turn finds its weights in the caches,
  as it would in a loop. With more than one thread, each turn begins with 20 milliseconds of rest, because the threads
  of some libraries spin for a while after a call. Times are medians; beside clstm's stand its 10th and 90th
  percentiles and its least.
- A shape is T, B, I, H: time steps, batch rows, input_size, hidden_size.
- *Forward* takes an array and returns outputs and final states. PyTorch runs it in inference mode. *Training step* is
  forward and backward: the gradients with respect to the input and all parameters, without the optimizer.
- *Ratio* is the time of the fastest other library over that of clstm: above 1, clstm is ahead.
- *Roof* is the share of what the machine can do at all. It compares clstm with the larger of two times: all
  multiply-adds at the measured peak (8 T B H (I + H) operations per layer and direction, three times that in
  training), or all weights that must be read (the recurrent ones in every step) at the measured bandwidth of the cache
  that holds them. *Bound by* says which. Neither counts activations, nor that a step must wait for the one before.
  The peaks and bandwidths are measured before all shapes and after them, and the better number counts. Above 100% a
  part of the weights stayed in a nearer cache.
- *Roof with activations* adds the measured time of three sigmoids and two tanh per hidden unit and step to the
  multiply-adds.
"""


def ratio(result: Result) -> float | None:
    """Time of the fastest peer over that of clstm; None without peers."""
    peers = [times["median"] for name, times in result["times"].items() if name != "clstm"]
    return min(peers) / result["times"]["clstm"]["median"] if peers else None


def roof_share(result: Result, name: str = "clstm") -> float | None:
    """The bound's time over that of a library; None where the roof was not measured."""
    return result["bound"] and result["bound"]["seconds"] / result["times"][name]["median"]


def line(shape: Shape, result: Result) -> str:
    """One result for the terminal."""
    words = [f"{shape!s:40}", f"{result['pass']:8}", result["dtype"], f"{result['threads']}t "]
    words += [f"{name} {_us(times['median'])}" for name, times in result["times"].items()]
    text = " ".join(words) + " us"
    if ratio(result) is not None:
        text += f", ratio {ratio(result):.2f}"
    if result["bound"]:
        text += f", {roof_share(result):.0%} of {result['bound']['reason']}"
    return text


def markdown(report: dict[str, Any], shapes: list[Shape], plot: str | None = None) -> str:
    """The page. `plot`: address of a picture to show."""
    parts = ["# Benchmarks", READING, "## The machine", _table([["", ""], *map(list, report["machine"].items())])]
    if report["roof"]:
        parts.append(_table(report["roof"]))
    parts += [f"*{note}*" for note in report["notes"]]
    if plot:
        parts.append(f"![Share of the roof by shape, for clstm and the fastest other library]({plot})")
    for title, results in _groups(report["results"]):
        parts += [f"## {title}", _summary(results)]
        for kind, heading in KINDS.items():
            rows = [(shapes[result["shape"]], result) for result in results if shapes[result["shape"]].kind == kind]
            if rows:
                parts += [f"### {heading}", _table(_comparison(rows))]
    return "\n\n".join(part.strip() for part in [*parts, *calls(report)]) + "\n"


def calls(report: dict[str, Any]) -> list[str]:
    """The part of the page that is not about shapes: single steps, threads, values."""
    if not report["steps"]:
        return []
    tables = [_steps(report["steps"]), _relative(report["scaling"], "speed"), _relative(report["values"], "time")]
    steps, scaling, values = map(_table, tables)
    parts = ["## One step from Python", _steps_text(report), steps]
    parts += ["## Threads", "Speed relative to one thread, float32.", scaling]
    return [*parts, "## Values", "Time relative to normal numbers, float32.", values]


def plot(report: dict[str, Any], shapes: list[Shape], path: Path) -> None:
    """Draw the share of the roof by shape for the first type and number of threads measured, with matplotlib."""
    from matplotlib.figure import Figure

    groups = _groups(report["results"])
    panels = [group for group in groups if group[1][0]["threads"] == groups[0][1][0]["threads"]][:2]
    figure = Figure(figsize=(5 + 4 * len(panels), 2 + 0.25 * len(panels[0][1])), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for ax, (title, results) in zip(axes, panels, strict=True):
        labels = [str(shapes[result["shape"]]) for result in results]
        ax.hlines(labels, 0, [100 * (roof_share(result) or 0) for result in results], color="0.85", zorder=0)
        ax.plot([100 * (roof_share(result) or 0) for result in results], labels, "o", label="clstm")
        if all(len(result["times"]) > 1 for result in results):
            best = [max(roof_share(r, name) or 0 for name in r["times"] if name != "clstm") for r in results]
            ax.plot([100 * share for share in best], labels, "o", fillstyle="none", color="0.4", label="fastest other")
        ax.set(title=title, xlabel="% of the roof", xlim=(0, max(105.0, *ax.get_xlim())))
        ax.legend(loc="lower right")
    axes[0].set_ylabel("T, B, I, H")
    axes[0].invert_yaxis()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def relative_address(picture: Path, page: Path) -> str:
    """How the page names the picture."""
    return Path(os.path.relpath(picture, page.parent)).as_posix()


def _groups(results: Iterable[Result]) -> list[tuple[str, list[Result]]]:
    """Results by pass, type and threads, with a title."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        name = {"forward": "Forward", "training": "Training step"}[result["pass"]]
        threads = f"{result['threads']} thread{'s' * (result['threads'] > 1)}"
        groups.setdefault(f"{name}, {result['dtype']}, {threads}", []).append(result)
    return list(groups.items())


def _summary(results: list[Result]) -> str:
    ratios = [value for value in map(ratio, results) if value is not None]
    if not ratios:
        return "No other library to compare with."
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    return (
        f"Ratio to the fastest other library: {mean:.2f} in the geometric mean of {len(ratios)} shapes, "
        f"{min(ratios):.2f} at least, {max(ratios):.2f} at most."
    )


def _comparison(rows: list[tuple[Shape, Result]]) -> Rows:
    """Columns in which no row has anything to say are left out."""
    peers = list(dict.fromkeys(name for _, result in rows for name in result["times"] if name != "clstm"))
    columns: dict[str, Callable[[Shape, Result], str]] = {
        "T, B, I, H": lambda shape, result: str(shape),
        "as in": lambda shape, result: shape.why,
        "clstm, µs": lambda shape, result: _us(result["times"]["clstm"]["median"]),
        "10-90 %": lambda shape, result: "-".join(_us(result["times"]["clstm"][end]) for end in ("p10", "p90")),
        "least": lambda shape, result: _us(result["times"]["clstm"]["minimum"]),
        "µs a step": lambda shape, result: _step_us(shape, result),
        **{f"{name}, µs": partial(_median_us, name) for name in peers},
        "ratio": lambda shape, result: _number(ratio(result)),
        "roof": lambda shape, result: _percent(roof_share(result)),
        "bound by": lambda shape, result: result["bound"]["reason"] if result["bound"] else "",
        "roof with activations": lambda shape, result: _percent(_share_with_activations(result)),
    }
    cells = {name: [cell(shape, result) for shape, result in rows] for name, cell in columns.items()}
    cells = {name: column for name, column in cells.items() if any(column)}
    return [list(cells), *map(list, zip(*cells.values(), strict=True))]


def _share_with_activations(result: Result) -> float | None:
    seconds = result["seconds_with_activations"]
    return seconds and seconds / result["times"]["clstm"]["median"]


def _step_us(shape: Shape, result: Result) -> str:
    return _us(result["times"]["clstm"]["median"] / shape.T) if shape.kind == "block" else ""


def _median_us(name: str, shape: Shape, result: Result) -> str:
    return _us(result["times"][name]["median"]) if name in result["times"] else ""


def _steps(steps: list[dict[str, float]]) -> Rows:
    names = [name for name in steps[0] if name != "hidden_size"]
    header = ["hidden_size", *(f"`{name}`, µs" for name in names)]
    return [header, *([f"{row['hidden_size']}", *(_us(row[name]) for name in names)] for row in steps)]


def _steps_text(report: dict[str, Any]) -> str:
    return (
        "One sequence, one layer, float32, input_size = hidden_size. At hidden_size 1 nearly all of the time is the "
        f"call. `import clstm` takes {1e3 * report['import_seconds']:.0f} ms beyond numpy."
    )


def _relative(rows: list[dict[str, Any]], key: str) -> Rows:
    names = list(rows[0][key])
    heads = [f"{name} thread{'s' * (name != '1')}" for name in names] if key == "speed" else names
    cells = [
        [row["work"], ", ".join(map(str, row["shape"])), *(f"{row[key][name]:.2f}" for name in names)] for row in rows
    ]
    return [["", "T, B, I, H", *heads], *cells]


def _table(rows: Rows) -> str:
    """A Markdown table, with numbers to the right."""
    numeric = [all(cell[:1].isdigit() for cell in column if cell) for column in zip(*rows[1:], strict=True)]
    rules = ["---", *("--:" if right else "---" for right in numeric[1:])]
    lines = [rows[0], rules, *rows[1:]]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _us(seconds: float) -> str:
    us = 1e6 * seconds
    return f"{us:,.0f}" if us >= 100 else f"{us:.3g}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"
