"""Derivatives by differences and by complex steps, which gradients are compared with."""

import numpy as np
from hypothesis import strategies as st
from reference import lstm as reference

# ---- of an LSTM ----


class Loss:
    """A linear function of the outputs, sum(dy y) + sum(dh_n h_n) + sum(dc_n c_n), as a function of all arguments."""

    def __init__(self, problem, given=frozenset({"dy", "dh_n", "dc_n"}), **options):
        self.lstm, self.batch, self.variant = problem.lstm(**options), problem.batch(), problem.variant
        self.weights = dict(zip(("dy", "dh_n", "dc_n"), (self.batch.dy, *self.batch.dstate), strict=True))
        self.weights = {name: array for name, array in self.weights.items() if name in given}
        self.arguments = {"x": self.batch.x} | self.lstm.state_dict()
        if not self.variant.get("learn_initial_state") or self.batch.state:
            h_0, c_0 = self.batch.state or [np.zeros(array.shape) for array in self.batch.dstate]
            self.arguments |= {"h_0": h_0, "c_0": c_0}

    def value(self, arguments):
        """The loss by the package."""
        parameters = self._use(arguments)
        start = arguments.get("h_0"), arguments.get("c_0")
        y, state, _ = self.lstm.forward(arguments["x"], start, self.batch.lengths)
        assert parameters == self.lstm.parameters().keys()
        return self._sum(y, state)

    def reference_value(self, arguments):
        """The loss by the reference."""
        parameters = {name: array for name, array in arguments.items() if name not in ("x", "h_0", "c_0")}
        state = arguments.get("h_0"), arguments.get("c_0")
        return self._sum(*reference(parameters, arguments["x"], state, self.batch.lengths, options=self.variant))

    def gradients(self):
        """By the package, a dict with the names of the arguments."""
        self._use(self.arguments)
        y, state, tape = self.lstm.forward(self.batch.x, self.batch.state, self.batch.lengths)
        dstate = (self.weights.get("dh_n"), self.weights.get("dc_n")) if self.weights.keys() - {"dy"} else None
        dx, (dh_0, dc_0), grads = self.lstm.backward(tape, self.weights.get("dy"), dstate)
        assert list(grads) == list(self.lstm.parameters())
        found = {"x": dx, "h_0": dh_0, "c_0": dc_0} | grads
        return {name: found[name] for name in self.arguments}

    def moved(self, name, step):
        """The arguments, one of them moved by a step."""
        return self.arguments | {name: self.arguments[name] + step}

    def central_difference(self, name, direction):
        """Derivative along a direction by central differences, Richardson's extrapolation of two of them: the error
        is of order size^4, and rounding adds about 1e-16 / size."""

        def difference(size):
            values = [self.value(self.moved(name, step * direction)) for step in (size, -size)]
            return (values[0] - values[1]) / (2 * size)

        return (4 * difference(1e-3) - difference(2e-3)) / 3

    def complex_step(self, name, direction):
        """Derivative of the reference along a direction, to the last digits."""
        return self.reference_value(self.moved(name, 1e-30j * direction)).imag * 1e30

    def _use(self, arguments):
        names = [name for name in arguments if name not in ("x", "h_0", "c_0")]
        self.lstm.load_state_dict({name: arguments[name] for name in names})
        self.lstm.dropout_counter = 0  # the same masks every time
        return set(names)

    def _sum(self, y, state):
        outputs = {"dy": y, "dh_n": state[0], "dc_n": state[1]}
        return sum((np.sum(weight * outputs[name]) for name, weight in self.weights.items()), start=0.0)


def unit_vectors(shape):
    for index in np.ndindex(*shape):
        vector = np.zeros(shape)
        vector[index] = 1
        yield vector


def assert_close(found, expected, tolerance, label):
    """Relative to the norm of the whole gradient array; a gradient that is 0 must be found to be 0."""
    norm = np.linalg.norm(expected)
    assert np.linalg.norm(found - expected) <= tolerance * norm + 1e-12 * (norm == 0), label


# ---- of any function of float64 arrays ----


EPS = 1e-5
seeds = st.integers(0, 2**32 - 1)
leading = st.lists(st.integers(0, 4), max_size=3).map(tuple)  # the axes before the last


def randoms(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape) for shape in shapes]


def numeric_gradient(loss, array):
    """Central differences of loss() with respect to each value of a float64 array, which loss() reads."""
    gradient = np.empty_like(array)
    for index in np.ndindex(array.shape):
        value = array[index]
        array[index] = value + EPS
        above = loss()
        array[index] = value - EPS
        below = loss()
        array[index] = value
        gradient[index] = (above - below) / (2 * EPS)
    return gradient


def assert_gradient(gradient, loss, array):
    """1e-7 relative to the largest entry, beside the rounding of the differences themselves."""
    assert gradient.shape == array.shape and gradient.dtype == array.dtype
    expected = numeric_gradient(loss, array)
    scale = max(np.abs(expected).max(initial=0.0), abs(loss()), 1e-3)
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-7 * scale)


def check_central_differences(loss, seed):
    """Compare each gradient with central differences along a random direction."""
    rng = np.random.default_rng(seed)
    for name, gradient in loss.gradients().items():
        direction = rng.standard_normal(gradient.shape)
        direction /= np.linalg.norm(direction)
        norm = np.linalg.norm(gradient)
        found = loss.central_difference(name, direction)
        assert abs(found - np.sum(gradient * direction)) <= 1e-7 * norm + 1e-12 * (norm == 0), name
