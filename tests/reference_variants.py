"""Variants of the LSTM in plain numpy, written from the formulas of docs/variants.md. See reference.py.

Comparisons look at real parts only, so that the functions are analytic on each side of their kinks.
"""

import numpy as np


def sigmoid(z):
    return 0.5 + 0.5 * np.tanh(0.5 * z)


def step(condition, yes, no):
    return np.where(condition, yes, no)


ACTIVATIONS = {
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "hard_sigmoid": lambda x, alpha=0.2, beta=0.5: clipped(alpha * x + beta, 0, 1),
    "identity": lambda x: x,
    "relu": lambda x: step(x.real > 0, x, 0),
    "leaky_relu": lambda x, alpha=0.01: step(x.real > 0, x, alpha * x),
    "thresholded_relu": lambda x, alpha=1.0: step(x.real > alpha, x, 0),
    "elu": lambda x, alpha=1.0: step(x.real > 0, x, alpha * np.expm1(step(x.real > 0, 0, x))),
    "affine": lambda x, alpha=1.0, beta=0.0: alpha * x + beta,
    "scaled_tanh": lambda x, alpha=1.0, beta=1.0: alpha * np.tanh(beta * x),
    "softsign": lambda x: x / (1 + step(x.real > 0, x, -x)),
    "softplus": lambda x: step(x.real > 0, x, 0) + np.log(1 + np.exp(step(x.real > 0, -x, x))),
}
USUAL = {"i": "sigmoid", "f": "sigmoid", "g": "tanh", "o": "sigmoid", "h": "tanh"}


def clipped(z, low, high):
    return step(z.real < low, low, step(z.real > high, high, z))


def limited(z, limit):
    return z if limit is None else clipped(z, -limit, limit)


def activate(options, place, z):
    name, *numbers = np.atleast_1d(np.array((options.get("activations") or {}).get(place, USUAL[place]), dtype=object))
    return ACTIVATIONS[name](z, *numbers)


def normalized(z, gain, eps):
    deviation = np.sqrt(np.mean((z - np.mean(z)) ** 2) + eps)
    return gain * (z - np.mean(z)) / deviation


def mixed(stays, old, new):
    return stays * old + (1 - stays) * new


def run_variant(options, parameters, suffix, x, h, c):
    """One direction of one layer over the whole of x (T, I). Returns y (T, P) and the final h and c."""
    H = len(c)
    eps = options.get("layer_norm_eps", 1e-5)
    absent = {None: "", "forget": "f", "input": "i"}[options.get("coupling")]
    absent += "" if options.get("forget_gate", True) else "f"
    gates = [gate for gate in "ifgo" if gate not in absent]
    own = {
        kind: dict(zip(gates, np.split(parameters[f"{kind}_{suffix}"], len(gates)), strict=True))
        for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_ln")
        if f"{kind}_{suffix}" in parameters
    }
    seeing = [gate for gate in gates if gate != "g"]
    peepholes = dict(zip(seeing, parameters.get(f"weight_ch_{suffix}", np.zeros((len(seeing), H))), strict=True))

    def gate(name, x_t, h, seen):
        z = own["weight_ih"][name] @ x_t + own["weight_hh"][name] @ h + peepholes.get(name, 0) * seen
        if "weight_ln" in own:
            z = normalized(z, own["weight_ln"][name][0], eps)
        if "bias_ih" in own:
            z = z + own["bias_ih"][name] + own["bias_hh"][name]
        return activate(options, name, limited(z, options.get("clip")))

    def normalized_cell(c):
        if "weight_ln" not in own:
            return c
        return normalized(c, parameters[f"weight_ln_c_{suffix}"], eps) + parameters.get(f"bias_ln_c_{suffix}", 0)

    y = []
    for x_t in x:
        i = None if "i" in absent else gate("i", x_t, h, c)
        f = 1 - i if options.get("coupling") == "forget" else 1 if "f" in absent else gate("f", x_t, h, c)
        i = 1 - f if i is None else i
        new_c = limited(f * c + i * gate("g", x_t, h, 0), options.get("cell_clip"))
        c = mixed(options.get("zoneout_c", 0), c, new_c)
        new_h = gate("o", x_t, h, c) * activate(options, "h", normalized_cell(new_c))
        if f"weight_hr_{suffix}" in parameters:
            new_h = limited(parameters[f"weight_hr_{suffix}"] @ new_h, options.get("proj_clip"))
        h = mixed(options.get("zoneout_h", 0), h, new_h)
        y.append(h)
    return np.array(y).reshape(len(y), len(h)), h, c
