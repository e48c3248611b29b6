/* The network in plain double arithmetic, straight from the formulas in clstm.h and with libm's functions: nothing
 * here is shared with the library. No dropout. */
#ifndef REFERENCE_H
#define REFERENCE_H

#include "problem.h"

static inline double *as_doubles(const problem *p, const buffer *b, int zeros) {
    const int64_t n = (int64_t)(b->bytes / p->size);
    double *values = calloc((size_t)n + 1, sizeof *values);
    CHECK(values);
    for (int64_t i = 0; i < n && !zeros; i++)
        values[i] = get(p->spec.dtype, b->p, i);
    return values;
}

/* The pre-activation of gate 0..3 (i, f, g, o) of a hidden unit. w: the parameters of the layer and direction. */
static inline double reference_gate(double *const *w, int bias, int64_t gate_row, int64_t I, int64_t H, const double *x,
                                    const double *h) {
    double z = bias ? w[2][gate_row] + w[3][gate_row] : 0;
    for (int64_t k = 0; k < I; k++)
        z += w[0][gate_row * I + k] * x[k];
    for (int64_t k = 0; k < H; k++)
        z += w[1][gate_row * H + k] * h[k];
    return z;
}

static inline double reference_sigmoid(double z) { return 1 / (1 + exp(-z)); }

/* One step of one row: h and c (H) become those of the next step. */
static inline void reference_step(double *const *w, int bias, int64_t I, int64_t H, const double *x, double *h,
                                  double *c) {
    double *h_next = malloc((size_t)H * sizeof *h_next);
    for (int64_t unit = 0; unit < H; unit++) {
        const double i = reference_sigmoid(reference_gate(w, bias, unit, I, H, x, h));
        const double f = reference_sigmoid(reference_gate(w, bias, H + unit, I, H, x, h));
        const double g = tanh(reference_gate(w, bias, 2 * H + unit, I, H, x, h));
        const double o = reference_sigmoid(reference_gate(w, bias, 3 * H + unit, I, H, x, h));
        c[unit] = f * c[unit] + i * g;
        h_next[unit] = o * tanh(c[unit]);
    }
    memcpy(h, h_next, (size_t)H * sizeof *h);
    free(h_next);
}

/* y (T, B, D*H), then hn and cn (L*D, B, H), in one array for the caller to free. */
static inline double *reference_forward(const problem *p) {
    const int64_t H = p->spec.hidden_size, T = p->T, B = p->B, D = p->D, L = p->spec.num_layers;
    const int per_direction = 2 + 2 * p->spec.bias;
    double *w[MAX_PARAMS], *in = as_doubles(p, &p->x, 0), *h = as_doubles(p, &p->h0, p->no_h0),
                           *c = as_doubles(p, &p->c0, p->no_c0);
    for (int i = 0; i < clstm_num_params(&p->spec); i++)
        w[i] = as_doubles(p, &p->params[i], 0);
    for (int64_t layer = 0; layer < L; layer++) {
        const int64_t I = layer_inputs(p, layer);
        double *out = calloc((size_t)(T * B * D * H + 1), sizeof *out);
        for (int64_t direction = 0; direction < D; direction++)
            for (int64_t row = 0; row < B; row++) {
                const int64_t length = row_length(p, row), index = layer * D + direction;
                double *state_h = h + (index * B + row) * H, *state_c = c + (index * B + row) * H;
                for (int64_t s = 0; s < length; s++) {
                    const int64_t t = direction ? length - 1 - s : s;
                    reference_step(w + index * per_direction, p->spec.bias, I, H, in + (t * B + row) * I, state_h,
                                   state_c);
                    memcpy(out + (t * B + row) * D * H + direction * H, state_h, (size_t)H * sizeof *h);
                }
            }
        free(in);
        in = out;
    }
    double *all = malloc((size_t)(T * B * D * H + 2 * p->c_states + 1) * sizeof *all);
    memcpy(all, in, (size_t)(T * B * D * H) * sizeof *all);
    memcpy(all + T * B * D * H, h, (size_t)p->c_states * sizeof *all);
    memcpy(all + T * B * D * H + p->c_states, c, (size_t)p->c_states * sizeof *all);
    for (int i = 0; i < clstm_num_params(&p->spec); i++)
        free(w[i]);
    free(in);
    free(h);
    free(c);
    return all;
}

#endif
