"""Random networks and batches that several tests share."""

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import strategies as st

import clstm
from clstm.variants import ACTIVATIONS

SMOOTH = ["sigmoid", "tanh", "identity", ("affine", 0.7, 0.2), ("scaled_tanh", 1.3, 0.6), "softplus"]
ODD_SIZES = (1, 3, 7, 13, 15, 17, 31, 33, 65, 129)  # none is a multiple of a vector; most need a tail
ODD_BATCHES = (1, 2, 3, 5, 7, 17, 33)
ISAS = clstm.cpu_info()["available"]
PER_ROW = {"y": 1, "h_n": 1, "c_n": 1, "dx": 1, "dh_0": 1, "dc_0": 1}  # axis of the batch


class Batch(NamedTuple):
    """What goes into a call and its gradient."""

    x: np.ndarray  # (T, B, I)
    state: tuple | None  # (h_0, c_0), (L*D, B, P) and (L*D, B, H); P is H without projection
    lengths: np.ndarray | None  # (B)
    dy: np.ndarray  # (T, B, D*P)
    dstate: tuple  # (dh_n, dc_n), as the states

    def rows(self, index):
        """The batch of some rows, in the order of index."""
        state = self.state and tuple(array[:, index] for array in self.state)
        lengths = None if self.lengths is None else self.lengths[index]
        return Batch(
            self.x[:, index], state, lengths, self.dy[:, index], tuple(array[:, index] for array in self.dstate)
        )


class Problem(NamedTuple):
    """A network's arguments, and what to run on it."""

    input_size: int = 3
    hidden_size: int = 4
    num_layers: int = 1
    bidirectional: bool = False
    bias: bool = True
    dtype: str = "float32"
    T: int = 5
    B: int = 2
    with_state: bool = True
    with_lengths: bool = False
    seed: int = 0
    variant: dict = {}  # noqa: RUF012 - options of LSTM, never changed

    @property
    def features(self):
        """P: features of h."""
        return self.variant.get("proj_size") or self.hidden_size

    def lstm(self, **options):
        """A new network, the same for the same problem. PyTorch's initial values: no bias is 0; and no gain is 1."""
        lstm = clstm.LSTM(
            self.input_size,
            self.hidden_size,
            self.num_layers,
            **{"bias": self.bias, "bidirectional": self.bidirectional, "dtype": self.dtype}
            | {"init": "pytorch", "seed": self.seed}
            | self.variant
            | options,
        )
        rng = np.random.default_rng(self.seed)
        for name, gain in lstm.parameters().items():
            if name.startswith("weight_ln"):
                gain[...] = rng.uniform(0.3, 1.7, gain.shape)
        return lstm

    def batch(self):
        """A random batch, the same for the same problem."""
        rng = np.random.default_rng([self.seed, self.T, self.B])
        D = 1 + self.bidirectional

        def normal(*shape):
            return rng.standard_normal(shape).astype(self.dtype)

        states = [normal(self.num_layers * D, self.B, n) for n in (self.features, self.hidden_size) * 2]
        return Batch(
            x=normal(self.T, self.B, self.input_size),
            state=tuple(states[:2]) if self.with_state else None,
            lengths=rng.integers(0, self.T + 1, self.B) if self.with_lengths else None,
            dy=normal(self.T, self.B, D * self.features),
            dstate=tuple(states[2:]),
        )


SPLIT_BY_ROWS = Problem(17, 65, T=24, B=33)  # threads take rows of the batch
SPLIT_BY_UNITS = Problem(17, 129, T=100, B=1)  # threads share the units of each step, and wait for each other


def problems(sizes=ODD_SIZES, batches=ODD_BATCHES, layers=(1, 2, 3), steps=(1, 2, 3, 8, 21), dtypes=None, **fixed):
    """Strategy for problems: every field is drawn unless it is given."""
    drawn = {
        "input_size": st.sampled_from(sizes),
        "hidden_size": st.sampled_from(sizes),
        "num_layers": st.sampled_from(layers),
        "bidirectional": st.booleans(),
        "bias": st.booleans(),
        "dtype": st.sampled_from(dtypes or ("float32", "float64")),
        "T": st.sampled_from(steps),
        "B": st.sampled_from(batches),
        "with_state": st.booleans(),
        "with_lengths": st.booleans(),
        "seed": st.integers(0, 1000),
    }
    return st.builds(Problem, **(drawn | {name: st.just(value) for name, value in fixed.items()}))


EVERYTHING = {
    "proj_size": 5,
    "peepholes": True,
    "coupling": "input",
    "activations": {"g": "softsign", "h": ["elu", 0.5]},
    "clip": 1.5,
    "cell_clip": 1.0,
    "proj_clip": 0.25,
    "learn_initial_state": True,
    "layer_norm": True,
    "layer_norm_eps": 0.01,
}
VARIANTS = [
    {"proj_size": 5},
    {"peepholes": True},
    {"coupling": "forget"},
    {"coupling": "input"},
    {"forget_gate": False},
    {"activations": {"i": "hard_sigmoid", "f": "hard_sigmoid", "g": "relu", "o": "hard_sigmoid", "h": "identity"}},
    {"clip": 0.5},
    {"cell_clip": 0.5},
    {"proj_size": 5, "proj_clip": 0.1},
    {"learn_initial_state": True},
    {"layer_norm": True},
    EVERYTHING,
]
each_variant = pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: "+".join(variant))
VARIANT_SIZES = {"sizes": (1, 2, 3, 8, 9, 17), "batches": (1, 2, 5, 17), "layers": (1, 2), "steps": (1, 2, 7)}


@st.composite
def variant_problems(draw, smooth=False, zoneout=False, **drawn):
    """Strategy for problems whose network is a variant, in any combination. smooth: without kinks. zoneout: with it, so
    that training differs from inference."""
    problem = draw(problems(**drawn))
    numbers = st.sampled_from((0.3, 0.7, 1.5))
    couplings = ({}, {"coupling": "forget"}, {"coupling": "input"}, {"forget_gate": False})
    options = {name: draw(st.booleans()) for name in ("peepholes", "learn_initial_state")}
    options |= draw(st.sampled_from(couplings))
    if problem.hidden_size > 1 and draw(st.booleans()):
        options["proj_size"] = draw(st.integers(1, problem.hidden_size - 1))
    if draw(st.booleans()):
        places = [place for place in "ifgoh" if place != "f" or options.get("forget_gate", True)]
        names = SMOOTH if smooth else list(ACTIVATIONS)
        options["activations"] = draw(st.dictionaries(st.sampled_from(places), st.sampled_from(names)))
    if draw(st.booleans()):
        options |= {"layer_norm": True, "layer_norm_eps": draw(st.sampled_from((0.2, 1.0)))}
    if zoneout:
        options |= {name: draw(st.sampled_from((0, 0.3, 1))) for name in ("zoneout_c", "zoneout_h")}
    for name in () if smooth else ("clip", "cell_clip", *["proj_clip"] * ("proj_size" in options)):
        options[name] = draw(st.none() | numbers)
    return problem._replace(variant=options)


REGULARIZERS = ("recurrent_dropout", "variational_dropout_x", "variational_dropout_h", "zoneout_c", "zoneout_h")


def regularizers():
    """Strategy for options that training draws masks for."""
    return st.dictionaries(st.sampled_from(REGULARIZERS), st.sampled_from((0.2, 0.5)), min_size=1)


def outputs(lstm, batch):
    """Everything that a training step returns, by name; and a plain call returns the same bytes."""
    y, state, tape = lstm.forward(batch.x, batch.state, batch.lengths)
    dx, dstate, grads = lstm.backward(tape, batch.dy, batch.dstate)
    assert_same_bytes(called(lstm, batch), named(y, state))
    return named(y, state) | {"dx": dx, "dh_0": dstate[0], "dc_0": dstate[1]} | grads


def called(lstm, batch):
    """Everything that a plain call returns, by name."""
    return named(*lstm(batch.x, batch.state, batch.lengths))


def rows_of(results, index):
    """Some rows of the results that have rows."""
    return {name: np.take(results[name], index, axis=axis) for name, axis in PER_ROW.items()}


def pieces(T, size):
    """T steps, cut into pieces of at most `size`."""
    return [slice(start, min(start + size, T)) for start in range(0, T, size)]


def named(y, state):
    """The results of a call by name."""
    return {"y": y, "h_n": state[0], "c_n": state[1]}


def assert_same_bytes(found, expected):
    """Compare dicts of arrays, or two arrays, byte for byte."""
    if not isinstance(found, dict):
        found, expected = {"array": found}, {"array": expected}
    assert found.keys() == expected.keys()
    for name in found:
        a, b = np.asarray(found[name]), np.asarray(expected[name])
        assert (a.dtype, a.shape) == (b.dtype, b.shape), name
        if a.tobytes() != b.tobytes():
            raise AssertionError(f"{name}: {np.sum(a != b)} of {a.size} differ, by at most {np.abs(a - b).max()}")


def torch_lstm(torch, problem):
    """PyTorch's module of the same kind, with values of its own."""
    return torch.nn.LSTM(
        problem.input_size,
        problem.hidden_size,
        problem.num_layers,
        bias=problem.bias,
        bidirectional=problem.bidirectional,
        proj_size=problem.variant.get("proj_size", 0),
        dtype=getattr(torch, problem.dtype),
    )
