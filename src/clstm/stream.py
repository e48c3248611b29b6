"""Streams: one step at a time, with the state kept between calls."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from . import _core
from .arguments import as_pair, as_real_array


class Stream(_core.StreamState):
    """Runs an LSTM step by step. Made by `LSTM.stream`.

    A stream sees changes of the LSTM's weights from the next step on. One stream is for one thread at a time; any
    number of streams of one LSTM may run at once.

    Attributes
    ----------
    batch_size : int
        Number of independent streams that advance together.
    state : (h, c)
        Copies of the states, (num_layers, batch_size, P) and (num_layers, batch_size, hidden_size), as those of the
        LSTM; assign a pair to set them.

    Examples
    --------
    >>> import numpy as np
    >>> import clstm
    >>> stream = clstm.LSTM(3, 4, seed=0).stream(batch_size=2)
    >>> stream.step(np.ones((2, 3), np.float32)).shape
    (2, 4)
    >>> out = np.empty((2, 4), np.float32)
    >>> stream.step(np.ones((2, 3), np.float32), out=out) is out
    True
    >>> stream.reset()
    """

    def __init__(
        self, weights: _core.Weights, batch_size: int, config: dict[str, Any], initial: list[tuple[int, int]]
    ) -> None:
        super().__init__(weights, batch_size)
        self._weights = weights
        self._config = config
        self._initial = initial  # places of the learned h_0 and c_0 of each layer among the parameters
        self._features: int = config.get("proj_size") or config["hidden_size"]
        self.reset()

    def __copy__(self) -> Stream:
        """Copies share the LSTM's weights, and nothing else."""
        stream = Stream(self._weights, self.batch_size, self._config, self._initial)
        stream.state = self.state
        return stream

    def __deepcopy__(self, memo: dict[int, Any]) -> Stream:
        return self.__copy__()

    def __reduce__(self) -> Any:
        raise TypeError("a Stream cannot be pickled: pickle the LSTM and the stream's state")

    @property
    def state(self) -> tuple[np.ndarray, np.ndarray]:
        """Copies of (h, c)."""
        return self._get_state()

    @state.setter
    def state(self, value: tuple[ArrayLike, ArrayLike]) -> None:
        shapes = [
            (self._config["num_layers"], self.batch_size, n) for n in (self._features, self._config["hidden_size"])
        ]
        pair = as_pair("state", value, ("h", "c"))
        arrays = [as_real_array(name, array) for name, array in zip("hc", pair, strict=True)]
        for name, array, shape in zip("hc", arrays, shapes, strict=True):
            if array.shape != shape:
                raise ValueError(f"{name} has shape {array.shape}, but {shape} is expected")
        self._set_state(*arrays)

    def reset(self) -> None:
        """Set the states to zero, or to the learned initial ones."""
        if self._initial:
            h, c = zip(*([self._weights.copy(i)[None] for i in pair] for pair in self._initial), strict=True)
            self._set_state(np.stack(h), np.stack(c))
        else:
            self._set_state(0, 0)

    def _convert_input(self, x: ArrayLike) -> np.ndarray:
        """x as `step` reads it; called for arrays that are not so already."""
        features = self._config["input_size"]
        array = np.require(as_real_array("x", x, self._config["dtype"]), requirements=["C", "A"])
        if array.ndim and array.shape[-1] != features:
            raise ValueError(f"x has {array.shape[-1]} features, but input_size is {features}")
        if array.shape != (self.batch_size, features) and (array.ndim != 1 or self.batch_size != 1):
            single = f" or ({features},)" if self.batch_size == 1 else ""
            raise ValueError(f"x has shape {array.shape}, but ({self.batch_size}, {features}){single} is expected")
        return array

    def _refuse_output(self, out: Any, ndim: int) -> None:
        """Raise the error for an `out` that cannot take the output."""
        shape = (self.batch_size, self._features)[-ndim:]
        found = f"{out.dtype} of shape {out.shape}" if isinstance(out, np.ndarray) else type(out).__name__
        raise ValueError(
            f"out is {found}, but a writable contiguous {self._config['dtype']} array of shape {shape} is expected"
        )
