/* The C interface on any arguments: either a status, or a call that stays within the buffers whose sizes were asked
 * for. A byte makes a number: usually one that fits, sometimes one that does not. */
#include "clstm.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_BYTES = 1 << 20, MOST_BATCH = 16 };

typedef struct input {
    clstm_spec spec;
    int64_t T, B, lengths[MOST_BATCH], order[MOST_BATCH];
    uint8_t training, has_lengths, has_order, has_state, wants_dx, short_workspace, byte;
} input;

static void *memory(size_t bytes, int fill) {
    void *const p = aligned_alloc(64, bytes / 64 * 64 + 64);
    if (!p)
        abort();
    memset(p, fill, bytes);
    return p;
}

static size_t real(const clstm_spec *spec) { return spec->dtype == CLSTM_FLOAT64 ? 8 : 4; }

static int64_t features(const clstm_spec *s) { return s->variant.proj_size ? s->variant.proj_size : s->hidden_size; }

static void **parameters(const clstm_spec *s, int fill) {
    const int64_t count = clstm_num_params(s);
    void **const params = memory((size_t)count * sizeof(void *), 0);
    for (int64_t i = 0, rows, columns; i < count; i++) {
        if (clstm_param_shape(s, i, &rows, &columns))
            abort();
        params[i] = memory((size_t)(rows * (columns ? columns : 1)) * real(s), fill);
    }
    return params;
}

static void drop(const clstm_spec *s, void **params) {
    for (int64_t i = 0; i < clstm_num_params(s); i++)
        free(params[i]);
    free(params);
}

static void step(const input *in, const void *pack) {
    const clstm_spec *s = &in->spec;
    const size_t x = (size_t)(in->B * s->input_size) * real(s);
    const size_t state = (size_t)(s->num_layers * in->B * s->hidden_size) * real(s);
    void *buffers[4] = {memory(x, in->byte), memory(state, in->byte), memory(state, 0), memory(state, 0)};
    clstm_step(s, pack, in->B, buffers[0], buffers[1], buffers[2], buffers[3], buffers[2]);
    for (int i = 0; i < 4; i++)
        free(buffers[i]);
}

static void sequence(const input *in, const void *pack, size_t tape_bytes, size_t workspace_bytes) {
    const clstm_spec *s = &in->spec;
    const int64_t D = 1 + s->bidirectional, I = s->input_size, DP = D * features(s);
    const size_t rows = (size_t)(in->T * in->B) * real(s);
    const size_t state = (size_t)(s->num_layers * D * in->B * s->hidden_size) * real(s);
    void *const x = memory(rows * (size_t)I, in->byte), *const y = memory(rows * (size_t)DP, 0);
    void *const h = memory(state, in->byte), *const hn = memory(state, 0), *const dx = memory(rows * (size_t)I, 0);
    void *const tape = in->training ? memory(tape_bytes, 0) : NULL, *const workspace = memory(workspace_bytes, 0);
    const clstm_sequence seq = {.T = in->T,
                                .B = in->B,
                                .lengths = in->has_lengths ? in->lengths : NULL,
                                .order = in->has_order ? in->order : NULL,
                                .x = x,
                                .x_time_stride = in->B * I,
                                .x_row_stride = I,
                                .h0 = in->has_state ? h : NULL,
                                .y = y,
                                .y_time_stride = in->B * DP,
                                .y_row_stride = DP,
                                .hn = hn};
    const int status = clstm_forward(s, pack, &seq, tape, workspace, workspace_bytes - in->short_workspace);
    if (status == CLSTM_OK && tape) {
        void **const dparams = parameters(s, 0);
        const clstm_gradients grads = {.dy = y,
                                       .dy_time_stride = in->B * DP,
                                       .dy_row_stride = DP,
                                       .dhn = in->has_state ? h : NULL,
                                       .dx = in->wants_dx ? dx : NULL,
                                       .dx_time_stride = in->B * I,
                                       .dx_row_stride = I,
                                       .dparams = dparams};
        clstm_backward(s, pack, tape, &grads, workspace, workspace_bytes - in->short_workspace);
        drop(s, dparams);
    }
    void *const all[] = {x, y, h, hn, dx, tape, workspace};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

/* ---- what the bytes mean ---- */

typedef struct reader {
    const uint8_t *p;
    size_t left;
} reader;

static uint8_t next(reader *r) { return r->left ? r->left--, *r->p++ : 0; }

static int64_t next_size(reader *r) {
    static const int64_t odd[] = {-1, INT64_MIN, INT64_MAX, (int64_t)1 << 31, (int64_t)1 << 40, 1000};
    const uint8_t b = next(r);
    return b < 250 ? b & 15 : odd[b - 250];
}

/* 0 .. most, or an int that is not. */
static int32_t next_choice(reader *r, int most) {
    const uint8_t b = next(r);
    return b < 250 ? b % (most + 1) : b - 253;
}

static double next_fraction(reader *r) {
    static const double odd[] = {-0.5, 2, NAN, INFINITY, 1e300, 5e-324};
    const uint8_t b = next(r);
    return b < 250 ? (b & 3) / 4.0 : odd[b - 250];
}

static clstm_variant next_variant(reader *r) {
    clstm_variant v = {.proj_size = next_size(r) & 3,
                       .coupling = next_choice(r, 3),
                       .peepholes = next_choice(r, 1),
                       .learned_state = next_choice(r, 1),
                       .clip = next_fraction(r),
                       .cell_clip = next_fraction(r),
                       .recurrent_dropout = next_fraction(r),
                       .variational_dropout_x = next_fraction(r),
                       .variational_dropout_h = next_fraction(r),
                       .zoneout_c = next_fraction(r),
                       .zoneout_h = next_fraction(r),
                       .layer_norm_eps = next_fraction(r)};
    v.proj_clip = v.proj_size ? next_fraction(r) : 0;
    for (int i = 0; i < 5; i++) {
        v.activations[i].kind = next_choice(r, 12);
        v.activations[i].alpha = next_fraction(r);
        v.activations[i].beta = next_fraction(r);
    }
    return v;
}

static input next_input(reader *r) {
    input in = {.spec = {.input_size = next_size(r),
                         .hidden_size = next_size(r),
                         .num_layers = next_size(r) & 3,
                         .dtype = next_choice(r, 1),
                         .bias = next_choice(r, 1),
                         .bidirectional = next_choice(r, 1),
                         .dropout = next_fraction(r)},
                .T = next_size(r),
                .B = next_size(r),
                .training = next(r) & 1,
                .has_lengths = next(r) & 1,
                .has_state = next(r) & 1,
                .wants_dx = next(r) & 1,
                .short_workspace = next(r) == 255,
                .byte = next(r)};
    for (int i = 0; i < MOST_BATCH; i++)
        in.lengths[i] = next_size(r);
    if (next(r) & 1)
        in.spec.variant = next_variant(r);
    in.has_order = next(r) & 1;
    for (int i = 0; i < MOST_BATCH; i++)
        in.order[i] = next_size(r);
    return in;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    reader r = {bytes, size};
    const input in = next_input(&r);
    const clstm_spec *const s = &in.spec;
    size_t pack_bytes, tape_bytes, forward_bytes, backward_bytes;
    if (clstm_pack_size(s, in.training, &pack_bytes) || clstm_tape_size(s, in.T, in.B, &tape_bytes) ||
        clstm_forward_workspace(s, in.T, in.B, &forward_bytes) ||
        clstm_backward_workspace(s, in.T, in.B, &backward_bytes))
        return 0;
    const size_t workspace_bytes = forward_bytes > backward_bytes ? forward_bytes : backward_bytes;
    if (pack_bytes > MOST_BYTES || tape_bytes > MOST_BYTES || workspace_bytes > MOST_BYTES || in.B > MOST_BATCH)
        return 0;
    void **const params = parameters(s, in.byte);
    void *const pack = memory(pack_bytes, 0);
    if (clstm_pack(s, in.training, (const void *const *)params, pack) == CLSTM_OK) {
        step(&in, pack);
        sequence(&in, pack, tape_bytes, workspace_bytes);
    }
    free(pack);
    drop(s, params);
    return 0;
}
