"""Losses, each with its gradient."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .arguments import as_index_array, as_real_array


def cross_entropy(logits: ArrayLike, targets: ArrayLike, ignore_index: int | None = None) -> tuple[float, np.ndarray]:
    """Return the mean softmax cross-entropy, -log softmax(logits)[target], and its gradient.

    Parameters
    ----------
    logits : array_like of shape (..., classes)
        Unnormalised log-probabilities; float32 and float64 are kept, other real types converted.
    targets : array_like of int, of shape (...)
        The right class of each element, 0..classes-1.
    ignore_index : int, optional
        Elements with this target (padding, say) count neither in the mean nor in the gradient.

    Returns
    -------
    loss : float
        In nats (divide by log 2 for bits); 0.0 where no element counts.
    dlogits : ndarray of shape (..., classes)
        Gradient of the loss with respect to the logits.

    Raises
    ------
    ValueError
        If the shapes do not agree or a target is not a class.
    TypeError
        If targets are not integers or logits not real numbers.

    Examples
    --------
    >>> import clstm
    >>> loss, dlogits = clstm.cross_entropy([[0.0, 0.0], [0.0, 0.0]], [0, 1])
    >>> round(loss, 4)
    0.6931
    >>> dlogits
    array([[-0.25,  0.25],
           [ 0.25, -0.25]])
    """
    logits = as_real_array("logits", logits)
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(f"logits has shape {logits.shape}, but at least one class on the last axis is expected")
    classes = logits.shape[-1]
    targets = as_index_array("targets", targets, classes, "the number of classes", ignore_index)
    if targets.shape != logits.shape[:-1]:
        raise ValueError(f"targets has shape {targets.shape}, but logits has {logits.shape}")

    target = targets.reshape(-1)
    counted = np.full(target.shape, True) if ignore_index is None else target != ignore_index
    target = np.where(counted, target, 0)
    row = np.arange(target.size)
    count = max(int(counted.sum()), 1)

    with np.errstate(invalid="ignore"):  # inf - inf: a row with an infinite or NaN logit has the loss NaN
        gradient = (logits - logits.max(axis=-1, keepdims=True)).reshape(-1, classes)
        picked = gradient[row, target]
        np.exp(gradient, out=gradient)
        total = gradient.sum(axis=-1)
        loss = float((np.log(total) - picked).sum(where=counted, dtype=np.float64)) / count
        gradient /= (total * count)[:, None]
    gradient[row, target] -= 1.0 / count
    gradient[~counted] = 0.0
    return loss, gradient.reshape(logits.shape)


def mse_loss(prediction: ArrayLike, target: ArrayLike) -> tuple[float, np.ndarray]:
    """Return the mean squared error, mean((prediction - target)^2), and its gradient.

    Parameters
    ----------
    prediction : array_like
        Any shape; float32 and float64 are kept, other real types converted.
    target : array_like
        The same shape; there is no broadcasting.

    Returns
    -------
    loss : float
        0.0 where there are no elements.
    dprediction : ndarray
        Gradient of the loss with respect to the prediction.

    Examples
    --------
    >>> import clstm
    >>> loss, dprediction = clstm.mse_loss([1.0, 2.0], [1.0, 0.0])
    >>> loss, dprediction.tolist()
    (2.0, [0.0, 2.0])
    """
    prediction = as_real_array("prediction", prediction)
    target = as_real_array("target", target, prediction.dtype)
    if target.shape != prediction.shape:
        raise ValueError(f"target has shape {target.shape}, but prediction has {prediction.shape}")
    difference = np.asarray(prediction - target)
    count = max(difference.size, 1)
    loss = float(np.square(difference, dtype=np.float64).sum()) / count
    difference *= 2.0 / count
    return loss, difference
