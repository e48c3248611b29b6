"""The roof: multiply-adds per second and reads per second that this machine can do at all.

    python benchmarks/roof.py [--threads 1 2] [--seconds 0.5] [--json FILE]

compiles roof.c with $CC and runs it. Working sets are half of each cache, at least four times the one before, and of
an L3 cache at most 16 times the L2 cache: half of one of 480 MiB was read at the speed of memory. Memory is four times
the last cache.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

SOURCE = Path(__file__).with_name("roof.c")


@dataclass(frozen=True)
class Level:
    """A cache level, or the memory. `size` is bytes of one cache, `shared_by` the processors that share it, `read`
    GB/s by number of threads."""

    name: str
    size: int
    shared_by: int
    read: dict[int, float]

    def capacity(self, threads: int) -> int:
        """Bytes that so many threads, each on a processor of its own, can hold at this level."""
        return self.size * max(1, threads // self.shared_by)


@dataclass(frozen=True)
class Roof:
    """`fma`: GFLOP/s by instruction set, type and number of threads. `levels`: nearest first."""

    fma: dict[str, dict[str, dict[int, float]]]
    levels: list[Level]

    def peak(self, isa: str, dtype: str, threads: int) -> float:
        """GFLOP/s; of the best instruction set where `isa` was not measured."""
        by_isa = self.fma.get(isa) or self.fma[list(self.fma)[-1]]
        return by_isa[dtype][threads]

    def level(self, num_bytes: float, threads: int) -> Level:
        """The nearest level that holds so many bytes."""
        return next(level for level in self.levels if num_bytes <= level.capacity(threads))


def measure(threads: Sequence[int], seconds: float) -> Roof:
    """Measure the roof, each number for about `seconds`.

    Raises
    ------
    RuntimeError
        If there is no compiler, or the machine is of a kind that roof.c does not know.
    """
    caches = _caches()
    sizes = _working_sets(caches, max(threads))
    fma: dict[str, dict[str, dict[int, float]]] = {}
    read: list[dict[int, float]] = [{} for _ in sizes]
    with tempfile.TemporaryDirectory() as directory:
        program = str(Path(directory) / "roof")
        compiler = shlex.split(os.environ.get("CC", "cc"))
        _run([*compiler, "-std=c11", "-O2", "-pthread", str(SOURCE), "-o", program])
        for count in threads:
            lines = _run([program, str(count), str(seconds), *map(str, sizes)]).splitlines()
            for _, isa, dtype, rate in (line.split() for line in lines if line.startswith("fma")):
                fma.setdefault(isa, {}).setdefault(dtype, {})[count] = float(rate)
            for by_threads, line in zip(read, (line for line in lines if line.startswith("read")), strict=True):
                by_threads[count] = float(line.split()[2])
    levels = [(f"L{i}", *cache) for i, cache in enumerate(caches, 1)] + [("memory", _memory(), processors())]
    return Roof(fma, [Level(*level, by_threads) for level, by_threads in zip(levels, read, strict=True)])


def best(first: Roof, second: Roof) -> Roof:
    """The larger of each number of two measurements, of which something else may have disturbed one."""
    fma = {
        isa: {dtype: _largest(rates, second.fma[isa][dtype]) for dtype, rates in by_dtype.items()}
        for isa, by_dtype in first.fma.items()
    }
    pairs = zip(first.levels, second.levels, strict=True)
    return Roof(fma, [replace(level, read=_largest(level.read, other.read)) for level, other in pairs])


def table(roof: Roof) -> list[list[str]]:
    """Header and rows of text."""
    threads = list(roof.levels[0].read)
    rows = [["", *(f"{n} thread{'s' * (n > 1)}" for n in threads)]]
    for isa, by_dtype in roof.fma.items():
        for dtype, by_threads in by_dtype.items():
            rows.append([f"{isa} {dtype}, GFLOP/s", *(f"{by_threads[n]:.0f}" for n in threads)])
    for level in roof.levels:
        size = f" ({level.size / 1024:.0f} KiB)" if level.name != "memory" else ""
        rows.append([f"{level.name}{size} reads, GB/s", *(f"{level.read[n]:.0f}" for n in threads)])
    return rows


def processors() -> int:
    """Number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _largest(first: dict[int, float], second: dict[int, float]) -> dict[int, float]:
    return {threads: max(rate, second[threads]) for threads, rate in first.items()}


def _run(command: list[str]) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except FileNotFoundError:
        raise RuntimeError(f"there is no {command[0]}; CC names another compiler") from None
    except subprocess.CalledProcessError as error:
        raise RuntimeError(error.stderr.strip()) from None


def _caches() -> list[tuple[int, int]]:
    """(bytes, processors that share it) of each data cache, nearest first."""
    if platform.system() == "Darwin":
        names = ("hw.perflevel0.l1dcachesize", "hw.perflevel0.l2cachesize", "hw.perflevel0.cpusperl2")
        l1, l2, sharing = (int(_run(["sysctl", "-n", name])) for name in names)
        return [(l1, 1), (l2, sharing)]
    caches = []
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        if (index / "type").read_text().strip() != "Instruction":
            size = int((index / "size").read_text().strip().removesuffix("K")) * 1024
            caches.append((size, _count((index / "shared_cpu_list").read_text())))
    if not caches:
        raise RuntimeError("the system does not say how large its caches are")
    return caches


def _memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _count(cpu_list: str) -> int:
    """How many processors a list such as "0-3,8" names."""
    ends = [list(map(int, part.split("-"))) for part in cpu_list.split(",")]
    return sum(end[-1] - end[0] + 1 for end in ends)


def _working_sets(caches: list[tuple[int, int]], threads: int) -> list[int]:
    """Bytes that each thread reads so that the data lies in each cache, then in memory."""
    sets: list[int] = []
    for size, shared_by in caches:
        half = size // (2 * min(threads, shared_by))
        most = 16 * caches[1][0] if len(sets) > 1 else size
        sets.append(min(max(half, 4 * sets[-1]), most) if sets else half)
    return [*sets, 4 * caches[-1][0]]


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description="Measure the machine: peak multiply-adds and read bandwidth.")
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, processors()}), help="default: 1 and all")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each number (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    arguments = parser.parse_args()
    roof = measure(arguments.threads, arguments.seconds)
    for row in table(roof):
        print(f"{row[0]:28}", *(f"{cell:>10}" for cell in row[1:]))
    if arguments.json:
        arguments.json.write_text(json.dumps(asdict(roof), indent=1) + "\n")


if __name__ == "__main__":
    main()
