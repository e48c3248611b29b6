"""Models that chain parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from .module import Module, Shape, describe, read_class

State = tuple[Any, ...]  # one entry per part that carries state, such as (h, c) of an LSTM, or None for zeros


class SequentialTape(NamedTuple):
    """What `Sequential.backward` needs of a forward call: the tape of each part."""

    parts: tuple[Any, ...]


class Sequential(Module):
    """A model that feeds each part's output to the next, as PyTorch's `nn.Sequential`, and carries their states.

    Parameters
    ----------
    *parts : Module
        `Embedding`, `LSTM`, `Linear`, another `Sequential` or a class of your own; each only once. Parameters
        are named after the position: "0.weight", "1.weight_ih_l0".

    Notes
    -----
    The state is a tuple with one entry per part that carries state, in their order: ((h_n, c_n),) for one LSTM.
    For truncated backpropagation through time, pass the returned state to the next call: it carries on, and no
    gradient flows back across the cut.

    Examples
    --------
    A character model, trained on a text in chunks of 20 steps:

    >>> import numpy as np
    >>> import clstm
    >>> text = np.frombuffer(b"to be or not to be " * 40, np.uint8) - 32
    >>> model = clstm.Sequential(
    ...     clstm.Embedding(96, 8, seed=0),
    ...     clstm.LSTM(8, 16, seed=0),
    ...     clstm.Linear(16, 96, seed=0),
    ... )
    >>> optimizer = clstm.Adam(model, lr=0.02)
    >>> losses, state = [], None
    >>> for start in range(0, 740, 20):
    ...     chunk = text[start : start + 21, None]
    ...     logits, state, tape = model.forward(chunk[:-1], state)
    ...     loss, dlogits = clstm.cross_entropy(logits, chunk[1:])
    ...     dx, dstate, grads = model.backward(tape, dlogits)
    ...     norm = clstm.clip_grad_norm(grads, 1.0)
    ...     optimizer.step(grads)
    ...     losses.append(loss)
    >>> losses[-1] < losses[0] / 2
    True
    """

    carries_state = True

    def __init__(self, *parts: Module) -> None:
        for i, part in enumerate(parts):
            if not isinstance(part, Module):
                raise TypeError(f"part {i} is a {type(part).__name__}, but a Module is expected")
            if any(part is other for other in parts[:i]):
                raise ValueError(f"part {i} stands at an earlier position already, but each part is expected once")
        self._parts: tuple[Any, ...] = parts

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Sequential:
        """Return a new model made with the parts that `config()` returned."""
        return cls(*(kind.from_config(arguments) for kind, arguments in _read_parts(config["parts"])))

    @staticmethod
    def parameter_shapes(parts: Any) -> Iterator[tuple[str, Shape]]:
        """Yield names and shapes of the parameters, from the parts that `config()` returned."""
        for i, (kind, arguments) in enumerate(_read_parts(parts)):
            for name, shape in kind.parameter_shapes(**arguments):
                yield f"{i}.{name}", shape

    def parameters(self) -> dict[str, np.ndarray]:
        """Return the live arrays by name: writing into one changes the model."""
        return {f"{i}.{name}": array for i, part in enumerate(self) for name, array in part.parameters().items()}

    def config(self) -> dict[str, Any]:
        """Return class and configuration of each part."""
        return {"parts": [describe(part) for part in self]}

    def __len__(self) -> int:
        return len(self._parts)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._parts)

    def __getitem__(self, index: int) -> Any:
        return self._parts[index]

    def __call__(self, x: Any, state: State | None = None) -> tuple[np.ndarray, State]:
        """Return the output of the last part and the new state.

        Parameters
        ----------
        x : array_like
            What the first part takes.
        state : tuple, optional
            As an earlier call returned it; zeros by default.

        Returns
        -------
        y : ndarray
        state : tuple
        """
        states, new_states = self._states("state", state), []
        for part in self:
            if part.carries_state:
                x, new = part(x, next(states))
                new_states.append(new)
            else:
                x = part(x)
        return x, tuple(new_states)

    def forward(self, x: Any, state: State | None = None) -> tuple[np.ndarray, State, SequentialTape]:
        """Return output and new state as a call does (with dropout, where a part has it), and the tape."""
        states, new_states, tapes = self._states("state", state), [], []
        for part in self:
            if part.carries_state:
                x, new, tape = part.forward(x, next(states))
                new_states.append(new)
            else:
                x, tape = part.forward(x)
            tapes.append(tape)
        return x, tuple(new_states), SequentialTape(tuple(tapes))

    def backward(
        self, tape: SequentialTape, dy: Any, dstate: State | None = None
    ) -> tuple[np.ndarray | None, State, dict[str, np.ndarray]]:
        """Return the gradients of the forward call that made the tape.

        Parameters
        ----------
        tape : SequentialTape
            From `forward`; it can be used again.
        dy : array_like
            Gradient of the loss with respect to y.
        dstate : tuple, optional
            Gradient with respect to the returned state, in its form; zeros by default.

        Returns
        -------
        dx : ndarray or None
            Gradient with respect to x; None where x is integers.
        dstate : tuple
            Gradient with respect to the state that was passed in.
        grads : dict of str to ndarray
            Gradients with respect to the parameters.
        """
        if not isinstance(tape, SequentialTape) or len(tape.parts) != len(self):
            raise ValueError(f"tape is {tape!r:.80}, but one that this model's forward returned is expected")
        dstates, new_dstates = self._states("dstate", dstate, reverse=True), []
        grads = []
        for i, part in reversed(list(enumerate(self))):
            if part.carries_state:
                dy, new, part_grads = part.backward(tape.parts[i], dy, next(dstates))
                new_dstates.append(new)
            else:
                dy, part_grads = part.backward(tape.parts[i], dy)
            grads.append({f"{i}.{name}": grad for name, grad in part_grads.items()})
        return dy, tuple(reversed(new_dstates)), {n: g for part_grads in reversed(grads) for n, g in part_grads.items()}

    def __repr__(self) -> str:
        lines = [f"  ({i}): {part!r}".replace("\n", "\n  ") for i, part in enumerate(self)]
        return "\n".join(["Sequential(", *lines, ")"])

    def _states(self, name: str, state: State | None, reverse: bool = False) -> Iterator[Any]:
        """The entries of a state, or as many None, in the order of the parts that carry one."""
        count = sum(part.carries_state for part in self)
        if state is None:
            state = (None,) * count
        if not isinstance(state, tuple) or len(state) != count:
            length = f" of length {len(state)}" if isinstance(state, (tuple, list)) else ""
            raise ValueError(
                f"{name} is a {type(state).__name__}{length}, but a tuple with one entry for each of the {count} parts "
                "that carry state is expected"
            )
        return reversed(state) if reverse else iter(state)


def _read_parts(parts: Any) -> Iterator[tuple[type[Module], dict[str, Any]]]:
    """Class and configuration of each part, from what `Sequential.config` returned."""
    if not isinstance(parts, list):
        raise ValueError(f"its configuration has the parts {parts!r:.80}, but a list is expected")
    return (read_class(part) for part in parts)
