"""Coefficients of src/clstm/core/activations.inc: p coth(p) = 1 + c[1] q + c[2] q^2 + ... with q = p^2.

Minimax in relative error (Remez exchange), by ``python tools/minimax.py``; needs mpmath.
"""

import mpmath as mp

mp.mp.dps = 50
GRID = 4000


def p_coth_p(q: mp.mpf) -> mp.mpf:
    return mp.sqrt(q) * mp.coth(mp.sqrt(q))


def minimax(degree: int, p_max: mp.mpf) -> tuple[list[mp.mpf], mp.mpf]:
    """Return c[1] ... c[degree] for abs(p) <= p_max, and the largest relative error."""
    q_max, n = p_max**2, degree + 1
    grid = [q_max * k / GRID for k in range(1, GRID + 1)]
    points = [q_max * (1 - mp.cos(mp.pi * (2 * k + 1) / (2 * n))) / 2 for k in range(n)]
    for _ in range(8):
        # polynomial + (-1)^i error * p coth p = p coth p at the points
        rows = [[q**k for k in range(1, n)] + [(-1) ** i * p_coth_p(q)] for i, q in enumerate(points)]
        *c, _ = mp.lu_solve(mp.matrix(rows), mp.matrix([p_coth_p(q) - 1 for q in points]))
        errors = [(1 + sum(c[k - 1] * q**k for k in range(1, n))) / p_coth_p(q) - 1 for q in grid]
        # the largest error between two changes of its sign
        peaks = [0]
        for i, error in enumerate(errors):
            if error * errors[peaks[-1]] < 0:
                peaks.append(i)
            elif abs(error) > abs(errors[peaks[-1]]):
                peaks[-1] = i
        points = [grid[i] for i in peaks[-n:]]
    return c, max(map(abs, errors))


for dtype, degree, p_max in ("float", 2, 0.1855), ("double", 5, 0.1734):
    coefficients, error = minimax(degree, mp.mpf(p_max))
    print(dtype, *[mp.nstr(c, 18) for c in coefficients], "relative error 2^" + mp.nstr(mp.log(error, 2), 4))
