"""The libraries of the extra `cli`: what there is without them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any

HINT = "pip install '.[cli]' from a clone of clstm brings it"


class Progress:
    """A progress bar on the terminal, by tqdm; without tqdm or a terminal, only the lines of `print`.

    Parameters
    ----------
    done : float, default 0.0
        Fraction of the work that an earlier run did.
    """

    def __init__(self, done: float = 0.0) -> None:
        self._print: Callable[[str], Any] = print
        self._bar: Any = None
        try:
            from tqdm import tqdm
        except ImportError:
            print(f"There is no progress bar, as tqdm is missing: {HINT}.")
            return
        self._print = lambda line: tqdm.write(line, file=sys.stdout)
        form = "{percentage:3.0f}%|{bar:30}| {elapsed}<{remaining}{postfix}"
        self._bar = tqdm(total=1.0, initial=done, disable=None, leave=False, bar_format=form)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, done: float, bits: float, characters_per_second: float) -> None:
        """Move the bar to the fraction `done`, with the loss in bits per character beside it."""
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {bits:.3f} bits, {characters_per_second:,.0f} characters/s", refresh=False)
            self._bar.update(done - self._bar.n)

    def print(self, line: str) -> None:
        """Print a line above the bar."""
        self._print(line)
        sys.stdout.flush()


def has_matplotlib() -> bool:
    """Whether pictures can be drawn."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    return True
