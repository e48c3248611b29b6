from typing import Any, final

import numpy as np
from typing_extensions import disjoint_base

@final
class Weights:
    def __init__(
        self,
        *,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        double_precision: bool,
        bias: bool,
        bidirectional: bool,
        dropout: float,
        variant: dict[str, Any],
    ) -> None: ...
    def view(self, index: int) -> np.ndarray: ...
    def gradients(self) -> list[np.ndarray]: ...
    def copy(self, index: int) -> np.ndarray: ...
    def assign(self, index: int, array: np.ndarray) -> None: ...

@final
class Pack: ...

@final
class Tape:
    T: int
    B: int
    pack: Pack
    meta: Any
    def is_of(self, weights: Weights) -> bool: ...
    def _detach(self) -> tuple[np.ndarray, Tape]: ...
    def _attach(self, memory: np.ndarray) -> Tape: ...

@disjoint_base
class StreamState:
    batch_size: int
    def __init__(self, weights: Weights, batch_size: int) -> None: ...
    def step(self, x: Any, out: np.ndarray | None = None) -> np.ndarray: ...
    def _get_state(self) -> tuple[np.ndarray, np.ndarray]: ...
    def _set_state(self, h: Any, c: Any) -> None: ...

def empty_aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray: ...
def forward(
    weights: Weights,
    x: np.ndarray,
    y: np.ndarray,
    h0: np.ndarray | None,
    c0: np.ndarray | None,
    hn: np.ndarray | None,
    cn: np.ndarray | None,
    lengths: np.ndarray | None,
    order: np.ndarray | None,
    training: bool,
    seed: int,
    meta: Any,
    dropout: float | None = None,
    pack: Pack | None = None,
    first_step: int = 0,
    part: int = 0,
    trace: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None,
) -> Tape | None: ...
def backward(
    tape: Tape,
    dy: np.ndarray | None,
    dhn: np.ndarray | None,
    dcn: np.ndarray | None,
    dx: np.ndarray | None,
    dh0: np.ndarray | None,
    dc0: np.ndarray | None,
    grads: list[np.ndarray] | None,
    accumulate: bool = False,
) -> None: ...
def version() -> str: ...
def isa() -> str: ...
def isa_reason() -> str: ...
def isas() -> list[str]: ...
def set_isa(name: str) -> None: ...
def set_num_threads(n: int) -> None: ...
def get_num_threads() -> int: ...
def apply(function: int, x: np.ndarray) -> np.ndarray: ...

_capi: Any
