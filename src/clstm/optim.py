"""Optimizers: they update parameters in place from gradients. Formulas and defaults are PyTorch's."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .module import Module, matching_arrays

PIECE = 32768  # elements that are updated at a time, so that they stay in the caches; one row, if it has more


def clip_grad_norm(grads: Mapping[str, np.ndarray], max_norm: float) -> float:
    """Scale gradients in place so that their common Euclidean norm is at most `max_norm`.

    Parameters
    ----------
    grads : mapping of str to ndarray
        As `backward` returns them; multiplied by max_norm / norm where that is below 1 (Pascanu, Mikolov &
        Bengio 2013).
    max_norm : float
        Above 0.

    Returns
    -------
    float
        The norm before scaling. Not finite where a gradient is not, and then the scaled gradients are of no use.

    Examples
    --------
    >>> import numpy as np
    >>> import clstm
    >>> grads = {"weight": np.array([3.0, 4.0])}
    >>> clstm.clip_grad_norm(grads, 1.0)
    5.0
    >>> np.round(grads["weight"], 3).tolist()
    [0.6, 0.8]
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm is {max_norm!r}, but a number above 0 is expected")
    arrays = (np.atleast_1d(np.asarray(grad)) for grad in grads.values())
    pieces = (array[piece] for array in arrays for piece in _pieces(array))
    norm = math.sqrt(sum(float(np.square(piece, dtype=np.float64).sum()) for piece in pieces))
    scale = max_norm / (norm + 1e-6)  # PyTorch's guard against 0
    if not scale >= 1.0:
        for grad in grads.values():
            grad *= scale
    return norm


class Optimizer(ABC):
    """What the optimizers share: the parameters, the learning rate, and state that can be saved."""

    slots: tuple[str, ...] = ()  # names of the arrays kept for each parameter, zero at first

    def __init__(self, parameters: Module | Mapping[str, np.ndarray], lr: float) -> None:
        if not isinstance(parameters, (Module, Mapping)):
            kind = type(parameters).__name__
            raise TypeError(f"parameters is a {kind}, but a Module or a dict of arrays is expected")
        self._source = parameters
        for name, array in self._parameters().items():
            if not isinstance(array, np.ndarray) or array.dtype.kind != "f" or not array.flags.writeable:
                raise TypeError(f"parameter {name!r} is not a writable array of floats")
        self.lr = lr
        self._step = 0
        self._state = {slot: {n: np.zeros_like(p) for n, p in self._parameters().items()} for slot in self.slots}

    @property
    def lr(self) -> float:
        """Learning rate; assign to it before a step to follow a schedule."""
        return self._lr

    @lr.setter
    def lr(self, value: float) -> None:
        self._lr = _at_least_zero("lr", value)

    def step(self, grads: Mapping[str, ArrayLike]) -> None:
        """Update every parameter in place.

        Parameters
        ----------
        grads : mapping of str to array_like
            A gradient of the parameter's shape for each parameter; other names are left alone.

        Raises
        ------
        ValueError
            If a gradient is missing or has the wrong shape. Nothing was updated then.
        """
        parameters = self._parameters()
        own = {name: grad for name, grad in grads.items() if name in parameters}
        arrays = matching_arrays(own, parameters, "grads", copy=False)
        self._step += 1
        for name, parameter in parameters.items():
            slots = (self._state[slot][name] for slot in self.slots)
            updated = [np.atleast_1d(array) for array in (parameter, arrays[name], *slots)]
            for piece in _pieces(updated[0]):
                self._update(*(array[piece] for array in updated))

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return copies of all that steps change, and the learning rate, as arrays by name."""
        arrays = {f"{slot}.{name}": array.copy() for slot in self.slots for name, array in self._state[slot].items()}
        return {"step": np.array(self._step), "lr": np.array(self._lr), **arrays}

    def load_state_dict(self, state_dict: Mapping[str, ArrayLike]) -> None:
        """Continue from what `state_dict` returned, to the last bit; on an error nothing changes.

        The other arguments of the constructor (betas, momentum, ...) stay those of this optimizer.
        """
        arrays = matching_arrays(state_dict, self.state_dict(), f"state_dict of {type(self).__name__}")
        step = int(_at_least_zero("step", arrays["step"]))
        self.lr = arrays["lr"].item()
        self._step = step
        for slot in self.slots:
            self._state[slot] = {name: arrays[f"{slot}.{name}"] for name in self._state[slot]}

    @abstractmethod
    def _update(self, parameter: np.ndarray, grad: np.ndarray, *slots: np.ndarray) -> None:
        """Update a piece of a parameter and of its slots in place. `grad` must stay as it is."""

    def _parameters(self) -> Mapping[str, np.ndarray]:
        """The live arrays, asked for at each use: holding on to them would keep a model from caching."""
        return self._source.parameters() if isinstance(self._source, Module) else self._source


class SGD(Optimizer):
    """Stochastic gradient descent with momentum, as PyTorch's `optim.SGD`.

    With d = grad + weight_decay * p:  v = momentum * v + d,  p = p - lr * v;  with `nesterov`
    p = p - lr * (d + momentum * v)  (Sutskever, Martens, Dahl & Hinton 2013).

    Parameters
    ----------
    parameters : Module or dict of str to ndarray
        What to update.
    lr : float, default 1e-3
    momentum : float, default 0.0
    weight_decay : float, default 0.0
    nesterov : bool, default False
        Needs a momentum.

    Examples
    --------
    >>> import numpy as np
    >>> import clstm
    >>> parameters = {"w": np.array([1.0, 2.0])}
    >>> optimizer = clstm.SGD(parameters, lr=0.1)
    >>> optimizer.step({"w": np.array([1.0, 0.0])})
    >>> parameters["w"]
    array([0.9, 2. ])
    """

    def __init__(
        self,
        parameters: Module | Mapping[str, np.ndarray],
        lr: float = 1e-3,
        *,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        self.momentum = _at_least_zero("momentum", momentum)
        self.weight_decay = _at_least_zero("weight_decay", weight_decay)
        self.nesterov = nesterov
        if nesterov and not self.momentum:
            raise ValueError("momentum is 0, but nesterov needs a momentum above 0")
        if self.momentum:
            self.slots = ("momentum_buffer",)
        super().__init__(parameters, lr)

    def _update(self, parameter: np.ndarray, grad: np.ndarray, *slots: np.ndarray) -> None:
        if self.weight_decay:
            grad = grad + self.weight_decay * parameter
        for buffer in slots:
            buffer *= self.momentum
            buffer += grad
            grad = grad + self.momentum * buffer if self.nesterov else buffer
        parameter -= self.lr * grad


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015), as PyTorch's `optim.Adam`.

    With d = grad + weight_decay * p at step t:  m = b1 m + (1 - b1) d,  v = b2 v + (1 - b2) d^2,
    p = p - lr * (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps).

    Parameters
    ----------
    parameters : Module or dict of str to ndarray
        What to update.
    lr : float, default 1e-3
    betas : (float, float), default (0.9, 0.999)
        b1 and b2, each in [0, 1).
    eps : float, default 1e-8
    weight_decay : float, default 0.0

    Examples
    --------
    >>> import numpy as np
    >>> import clstm
    >>> linear = clstm.Linear(1, 1, seed=0)
    >>> optimizer = clstm.Adam(linear, lr=0.05)
    >>> x = np.linspace(-1, 1, 32)[:, None]
    >>> for step in range(300):
    ...     y, tape = linear.forward(x)
    ...     loss, dy = clstm.mse_loss(y, 3 * x + 1)
    ...     dx, grads = linear.backward(tape, dy)
    ...     optimizer.step(grads)
    >>> loss < 1e-3
    True
    """

    slots = ("exp_avg", "exp_avg_sq")
    _decoupled = False  # weight decay shrinks the parameter itself, not by way of the gradient

    def __init__(
        self,
        parameters: Module | Mapping[str, np.ndarray],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        for beta in betas:
            if not 0.0 <= beta < 1.0:
                raise ValueError(f"betas is {betas!r}, but numbers in [0, 1) are expected")
        self.betas = betas
        self.eps = _at_least_zero("eps", eps)
        self.weight_decay = _at_least_zero("weight_decay", weight_decay)
        super().__init__(parameters, lr)

    def _update(self, parameter: np.ndarray, grad: np.ndarray, *slots: np.ndarray) -> None:
        exp_avg, exp_avg_sq = slots
        beta1, beta2 = self.betas
        if self.weight_decay and self._decoupled:
            parameter *= 1.0 - self.lr * self.weight_decay
        elif self.weight_decay:
            grad = grad + self.weight_decay * parameter
        work = grad - exp_avg
        work *= 1.0 - beta1
        exp_avg += work
        np.square(grad, out=work)
        work *= 1.0 - beta2
        exp_avg_sq *= beta2
        exp_avg_sq += work
        denominator = np.sqrt(exp_avg_sq, out=work)
        denominator /= math.sqrt(1.0 - beta2**self._step)
        denominator += self.eps
        update = np.divide(exp_avg, denominator, out=work)
        update *= self.lr / (1.0 - beta1**self._step)
        parameter -= update


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019), as PyTorch's `optim.AdamW`.

    As `Adam` with d = grad, after p = p * (1 - lr * weight_decay).

    Parameters
    ----------
    parameters : Module or dict of str to ndarray
        What to update.
    lr : float, default 1e-3
    betas : (float, float), default (0.9, 0.999)
    eps : float, default 1e-8
    weight_decay : float, default 0.01

    Examples
    --------
    >>> import numpy as np
    >>> import clstm
    >>> parameters = {"w": np.array([1.0, 2.0])}
    >>> clstm.AdamW(parameters, lr=0.1).step({"w": np.array([0.0, 0.0])})
    >>> parameters["w"]
    array([0.999, 1.998])
    """

    _decoupled = True

    def __init__(
        self,
        parameters: Module | Mapping[str, np.ndarray],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(parameters, lr, betas, eps, weight_decay)


def _pieces(array: np.ndarray) -> Iterator[tuple[slice, ...]]:
    """Indices that make views of an array's rows, some at a time; of its columns, where those lie together."""
    axis = max(range(array.ndim), key=lambda axis: abs(array.strides[axis]) if array.shape[axis] > 1 else 0)
    length = array.shape[axis]
    rows = max(1, PIECE * length // max(1, array.size))
    for begin in range(0, length, rows):
        yield (*[slice(None)] * axis, slice(begin, begin + rows))


def _at_least_zero(name: str, value: Any) -> float:
    """`value` as a finite float of at least 0."""
    number = float(value)
    if not 0.0 <= number < math.inf:
        raise ValueError(f"{name} is {value!r}, but a finite number of at least 0 is expected")
    return number
