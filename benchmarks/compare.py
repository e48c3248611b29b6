"""clstm beside other LSTM libraries, and beside what the machine can do.

    python benchmarks/compare.py --quick
    python benchmarks/compare.py --threads 1 2 --json build/benchmarks.json --markdown docs/benchmarks.md

Compares with whichever of PyTorch, ONNX Runtime and OpenVINO are installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from timeit import Timer
from typing import Any

import machine
import numpy as np
import peers
import report
import roof
import scaling
import shapes
import steps
import values
from timing import interleaved

import clstm
from clstm import _core

PASSES = ("forward", "training")
DTYPES = ("float32", "float64")
QUICK_SHAPES = (1, 7, 14, 24)
SETTLE = 0.02  # seconds: with more than one thread, other libraries' threads spin for a while after a call


def main() -> None:
    """Measure what the options say; print, and write what was asked for."""
    options = _options()
    results = json.loads(options.results.read_text()) if options.results else _measure(options)
    _write(results, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure clstm beside other LSTM libraries.")
    add = parser.add_argument
    add("--quick", action="store_true", help="a few shapes for 0.1 s each: whether all runs, not how fast")
    add("--kind", nargs="+", choices=list(shapes.KINDS), help="only shapes of these kinds")
    add("--only", nargs="+", type=int, metavar="N", help="only these shapes, counted from 0 in shapes.json")
    add("--pass", nargs="+", choices=PASSES, default=PASSES, dest="passes", help="default: both")
    add("--threads", nargs="+", type=int, default=[1], metavar="N", help="of each library (default: 1)")
    add("--dtype", nargs="+", choices=DTYPES, default=DTYPES[:1], help="default: float32")
    add("--time-per-shape", type=float, default=1.5, metavar="SECONDS", help="for each pass (default: %(default)s)")
    add("--shapes-only", action="store_true", help="leave out the tables on single steps, threads and values")
    add("--results", type=Path, metavar="FILE", help="measure nothing: read what --json wrote")
    add("--json", type=Path, metavar="FILE", help="write the results as JSON")
    add("--markdown", type=Path, metavar="FILE", help="write the results as a page")
    add("--plot", type=Path, metavar="FILE", help="draw the share of the roof by shape (needs matplotlib)")
    options = parser.parse_args()
    if options.plot and not importlib.util.find_spec("matplotlib"):
        parser.error("--plot needs matplotlib")
    if options.quick:
        options.time_per_shape = 0.1
        options.only = options.only or QUICK_SHAPES
    return options


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    libraries, notes = peers.installed(), []
    for name in peers.LIBRARIES:
        if name not in libraries:
            notes.append(f"{name} is not installed, so it is not compared.")
    limits = None
    try:
        limits = _roof(options)
    except RuntimeError as error:
        notes.append(f"The roof is not measured: {error}.")
    results: dict[str, Any] = {
        "machine": machine.describe(libraries),
        "roof": None,
        "notes": notes,
        "results": [],
        "steps": [],
        "scaling": [],
        "values": [],
    }
    _print_table(list(map(list, results["machine"].items())))
    print(*notes, sep="\n")
    cell_seconds = {dtype: _cell_seconds(dtype) for dtype in options.dtype}
    for shape, result in _compare(options, list(libraries)):
        if limits:
            _add_bound(shape, result, limits, cell_seconds[result["dtype"]])
        results["results"].append(result)
        print(report.line(shape, result), flush=True)
    if limits:
        try:
            limits = roof.best(limits, _roof(options))
        except RuntimeError as error:
            notes.append(f"The roof is measured once: {error}.")
        _finish_bounds(results, limits, cell_seconds)
    if not options.shapes_only:
        results["steps"] = steps.measure(options.time_per_shape)
        results["import_seconds"] = steps.import_seconds()
        results["scaling"] = scaling.measure(2 * options.time_per_shape)
        results["values"] = values.measure(2 * options.time_per_shape)
    return results


def _roof(options: argparse.Namespace) -> roof.Roof:
    return roof.measure(sorted({*options.threads, 1, roof.processors()}), 0.02 if options.quick else 0.5)


def _print_table(rows: list[list[str]]) -> None:
    for row in rows:
        print(f"{row[0]:28}", *(f"{cell:>10}" for cell in row[1:]))


def _compare(options: argparse.Namespace, libraries: list[str]) -> Iterator[tuple[shapes.Shape, dict[str, Any]]]:
    """The results, shape by shape, without what the roof allows."""
    for dtype, threads, (number, shape) in itertools.product(options.dtype, options.threads, _selected(options)):
        calls = peers.make_calls(peers.make_problem(shape, dtype, threads), libraries)
        for which in options.passes:
            timers = {name: Timer(call[which]) for name, call in calls.items() if which in call}
            times = interleaved(timers, options.time_per_shape, SETTLE if threads > 1 else 0.0)
            yield (
                shape,
                {
                    "shape": number,
                    "pass": which,
                    "dtype": dtype,
                    "threads": threads,
                    "times": {name: asdict(time) for name, time in times.items()},
                    "bound": None,
                    "seconds_with_activations": None,
                },
            )


def _add_bound(shape: shapes.Shape, result: dict[str, Any], limits: roof.Roof, cell_seconds: float) -> None:
    """What the roof allows for a result."""
    isa, training, threads = clstm.cpu_info()["isa"], result["pass"] == "training", result["threads"]
    bound = shapes.bound(shape, training, result["dtype"], threads, isa, limits)
    result["bound"] = bound._asdict()
    if not training and shape.kind == "batch":
        result["seconds_with_activations"] = bound.seconds + shape.cell_updates * cell_seconds / threads


def _finish_bounds(results: dict[str, Any], limits: roof.Roof, cell_seconds: dict[str, float]) -> None:
    """Bounds by the best roof, which a moment before all results or one after them may have disturbed."""
    listed = shapes.load()
    results["roof"] = roof.table(limits)
    print("The roof, the better of before and after (above: before):")
    _print_table(results["roof"])
    for result in results["results"]:
        _add_bound(listed[result["shape"]], result, limits, cell_seconds[result["dtype"]])


def _selected(options: argparse.Namespace) -> list[tuple[int, shapes.Shape]]:
    """Numbers and shapes that the options leave."""
    numbers, kinds = options.only or range(1000), options.kind or shapes.KINDS
    return [(number, shape) for number, shape in enumerate(shapes.load()) if number in numbers and shape.kind in kinds]


def _cell_seconds(dtype: str) -> float:
    """Least seconds of the activations of one hidden unit in one step: sigmoid of i, f and o, tanh of g and c."""
    x = np.random.default_rng(0).standard_normal(1 << 14).astype(dtype)  # enough that the call weighs little
    sigmoid, tanh = (min(Timer(partial(_core.apply, f, x)).repeat(200, 20)) / 20 / x.size for f in (1, 2))
    return 3 * sigmoid + 2 * tanh


def _write(results: dict[str, Any], options: argparse.Namespace) -> None:
    for path in (options.json, options.markdown, options.plot):
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    listed, address = shapes.load(), None
    if options.plot:
        report.plot(results, listed, options.plot)
        address = options.markdown and report.relative_address(options.plot, options.markdown)
    if options.markdown:
        options.markdown.write_text(report.markdown(results, listed, address), encoding="utf-8")
    print(*report.calls(results), sep="\n\n")


if __name__ == "__main__":
    main()
