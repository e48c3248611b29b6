"""How an LSTM may differ from the plain one: options, their checks, and what follows for parameters."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .arguments import as_flag, as_probability, as_size, at_least_normal

# Names of the functions in the order of clstm_activation_kind, from 1 on, and what they take: alpha, or alpha and beta.
ACTIVATIONS: dict[str, tuple[float, ...]] = {
    "sigmoid": (),
    "tanh": (),
    "hard_sigmoid": (0.2, 0.5),
    "identity": (),
    "relu": (),
    "leaky_relu": (0.01,),
    "thresholded_relu": (1.0,),
    "elu": (1.0,),
    "affine": (1.0, 0.0),
    "scaled_tanh": (1.0, 1.0),
    "softsign": (),
    "softplus": (),
}
_KINDS = {name: kind for kind, name in enumerate(ACTIVATIONS, start=1)}
_USUAL = {"i": "sigmoid", "f": "sigmoid", "g": "tanh", "o": "sigmoid", "h": "tanh"}
_COUPLINGS = {None: 0, "forget": 1, "input": 2}
_NO_FORGET_GATE = 3
_PROBABILITIES = ("recurrent_dropout", "variational_dropout_x", "variational_dropout_h", "zoneout_c", "zoneout_h")

Activation = str | tuple[Any, ...]


class Variant(NamedTuple):
    """Options of an LSTM that are not the plain one's, checked by `of`. See `LSTM` for what they mean."""

    proj_size: int = 0
    peepholes: bool = False
    coupling: str | None = None
    forget_gate: bool = True
    activations: dict[str, Activation] | None = None
    clip: float | None = None
    cell_clip: float | None = None
    proj_clip: float | None = None
    learn_initial_state: bool = False
    recurrent_dropout: float = 0.0
    variational_dropout_x: float = 0.0
    variational_dropout_h: float = 0.0
    zoneout_c: float = 0.0
    zoneout_h: float = 0.0
    layer_norm: bool = False
    layer_norm_eps: float = 1e-5

    @classmethod
    def of(cls, hidden_size: int, options: Mapping[str, Any]) -> Variant:
        """Check those of `options` that concern the variant; the others are ignored."""
        given = cls(**{name: value for name, value in options.items() if name in cls._fields})
        variant = cls(
            proj_size=_as_proj_size(given.proj_size, hidden_size),
            peepholes=as_flag("peepholes", given.peepholes),
            coupling=_as_coupling(given.coupling),
            forget_gate=as_flag("forget_gate", given.forget_gate),
            activations=_as_activations(given.activations),
            clip=_as_limit("clip", given.clip),
            cell_clip=_as_limit("cell_clip", given.cell_clip),
            proj_clip=_as_limit("proj_clip", given.proj_clip),
            learn_initial_state=as_flag("learn_initial_state", given.learn_initial_state),
            **{name: as_probability(name, getattr(given, name)) for name in _PROBABILITIES},
            layer_norm=as_flag("layer_norm", given.layer_norm),
            layer_norm_eps=_as_positive("layer_norm_eps", given.layer_norm_eps),
        )
        if variant.coupling and not variant.forget_gate:
            raise ValueError(f"coupling is {variant.coupling!r}, but forget_gate is False: there is nothing to couple")
        if variant.proj_clip is not None and not variant.proj_size:
            raise ValueError(f"proj_clip is {variant.proj_clip}, but proj_size is 0: there is no projection to limit")
        if variant.layer_norm_eps != cls().layer_norm_eps and not variant.layer_norm:
            raise ValueError(f"layer_norm_eps is {variant.layer_norm_eps}, but layer_norm is False")
        if not variant.forget_gate and "f" in (variant.activations or {}):
            raise ValueError("activations has 'f', but forget_gate is False")
        return variant

    @property
    def gates(self) -> str:
        """The gates that have weights, in their order."""
        missing = "" if self.forget_gate else "f"
        missing += {None: "", "forget": "f", "input": "i"}[self.coupling]
        return "".join(gate for gate in "ifgo" if gate not in missing)

    @property
    def is_random(self) -> bool:
        """Whether training draws masks."""
        return any(getattr(self, name) > 0 for name in _PROBABILITIES)

    def parameter_shapes(
        self, layer_input: int, hidden_size: int, bias: bool
    ) -> Iterator[tuple[str, tuple[int] | tuple[int, int]]]:
        """Yield kinds and shapes of the parameters of one layer and direction."""
        rows, features = len(self.gates) * hidden_size, self.proj_size or hidden_size
        yield "weight_ih", (rows, layer_input)
        yield "weight_hh", (rows, features)
        if bias:
            yield "bias_ih", (rows,)
            yield "bias_hh", (rows,)
        if self.proj_size:
            yield "weight_hr", (self.proj_size, hidden_size)
        if self.peepholes:
            yield "weight_ch", (len(self.gates) - 1, hidden_size)
        if self.layer_norm:
            yield "weight_ln", (len(self.gates), hidden_size)
            yield "weight_ln_c", (hidden_size,)
            if bias:
                yield "bias_ln_c", (hidden_size,)
        if self.learn_initial_state:
            yield "h_0", (features,)
            yield "c_0", (hidden_size,)

    def options(self) -> dict[str, Any]:
        """Return the options that differ from the plain LSTM's."""
        usual = Variant()._asdict()
        return {name: value for name, value in self._asdict().items() if value != usual[name]}

    def spec(self) -> dict[str, Any]:
        """Return the fields of the C library's clstm_variant that are not 0."""
        if self == Variant():
            return {}
        functions = self.activations or {}
        return {
            "proj_size": self.proj_size,
            "peepholes": self.peepholes,
            "learned_state": self.learn_initial_state,
            **{name: getattr(self, name) for name in _PROBABILITIES},
            "layer_norm_eps": self.layer_norm_eps if self.layer_norm else 0.0,
            "coupling": _COUPLINGS[self.coupling] if self.forget_gate else _NO_FORGET_GATE,
            "activations": [_activation_spec(functions.get(place)) for place in _USUAL],
            "clip": self.clip or 0.0,
            "cell_clip": self.cell_clip or 0.0,
            "proj_clip": self.proj_clip or 0.0,
        }


def _as_proj_size(value: Any, hidden_size: int) -> int:
    size = as_size("proj_size", value, least=0)
    if size and size >= hidden_size:
        raise ValueError(f"proj_size is {size}, but less than hidden_size {hidden_size} is expected")
    return size


def _as_coupling(value: Any) -> str | None:
    if value is not None and (not isinstance(value, str) or value not in _COUPLINGS):
        raise ValueError(f"coupling is {value!r}, but None, 'forget' (f = 1 - i) or 'input' (i = 1 - f) is expected")
    return value


def _as_number(name: str, value: Any) -> float:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} is {value!r}, but a number is expected")
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value}, but a finite number is expected")
    return float(value)


def _as_limit(name: str, value: Any) -> float | None:
    return None if value is None else _as_positive(name, value, ", or None for no limit,")


def _as_positive(name: str, value: Any, alternative: str = "") -> float:
    number = _as_number(name, value)
    if number <= 0:
        raise ValueError(f"{name} is {number}, but a number above 0{alternative} is expected")
    return at_least_normal(name, number)


def _as_activations(value: Any) -> dict[str, Activation] | None:
    """Only those that are not usual; None without any."""
    if value is None:
        return None
    if isinstance(value, Mapping):
        if unknown := [place for place in value if place not in _USUAL]:
            raise ValueError(f"activations has {unknown[0]!r}, but its keys are {', '.join(map(repr, _USUAL))}")
        places = dict(value)
    elif isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 3:
        gates, candidate, output = value
        places = {"i": gates, "f": gates, "g": candidate, "o": gates, "h": output}
    else:
        raise TypeError(
            f"activations is {value!r}, but a dict with keys among {', '.join(map(repr, _USUAL))}, or a list of three "
            "(gates, candidate, output) is expected"
        )
    functions = {place: _as_activation(place, places[place]) for place in _USUAL if place in places}
    return {place: function for place, function in functions.items() if function != _USUAL[place]} or None


def _as_activation(place: str, value: Any) -> Activation:
    """A name, or a tuple of name, alpha and beta if the function has such."""
    name, *given = (value,) if isinstance(value, str) or not isinstance(value, Sequence) else value or ("",)
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise ValueError(f"activations[{place!r}] is {value!r}, but known are {', '.join(ACTIVATIONS)}")
    usual = ACTIVATIONS[name]
    if len(given) > len(usual):
        takes = " and ".join(("alpha", "beta")[: len(usual)]) or "no parameters"
        raise ValueError(f"activations[{place!r}] is {value!r}, but {name} takes {takes}")
    numbers = [
        _as_number(f"{key} of activations[{place!r}]", x) for key, x in zip(("alpha", "beta"), given, strict=False)
    ]
    return (name, *numbers, *usual[len(numbers) :]) if usual else name


def _activation_spec(function: Activation | None) -> tuple[int, float, float]:
    """kind, alpha and beta of a clstm_activation."""
    if function is None:
        return 0, 0.0, 0.0
    name, *numbers = (function,) if isinstance(function, str) else function
    alpha, beta = (*numbers, 0.0, 0.0)[:2]
    return _KINDS[name], alpha, beta
