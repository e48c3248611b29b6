/* The C interface on any arguments: either a status, or a call that stays within the buffers whose sizes were asked
 * for. The bytes are read as a spec, T, B, flags and lengths; the rest is where values come from. */
#include "clstm.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_BYTES = 1 << 20, MOST_BATCH = 16 };

typedef struct input {
    clstm_spec spec;
    int64_t T, B, lengths[MOST_BATCH];
    uint8_t training, has_lengths, has_state, wants_dx, short_workspace, byte;
} input;

static void *memory(size_t bytes, int fill) {
    void *const p = aligned_alloc(64, bytes / 64 * 64 + 64);
    if (!p)
        abort();
    memset(p, fill, bytes);
    return p;
}

static size_t real(const clstm_spec *spec) { return spec->dtype == CLSTM_FLOAT64 ? 8 : 4; }

static void **parameters(const clstm_spec *s, int fill) {
    const int64_t count = clstm_num_params(s), D = 1 + s->bidirectional, per_direction = 2 + 2 * s->bias;
    void **const params = memory((size_t)count * sizeof(void *), 0);
    for (int64_t i = 0; i < count; i++) {
        const int64_t layer = i / (D * per_direction), kind = i % per_direction;
        const int64_t columns = kind > 1 ? 1 : kind == 1 ? s->hidden_size : layer ? D * s->hidden_size : s->input_size;
        params[i] = memory((size_t)(4 * s->hidden_size * columns) * real(s), fill);
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
    const int64_t D = 1 + s->bidirectional, I = s->input_size, DH = D * s->hidden_size;
    const size_t rows = (size_t)(in->T * in->B) * real(s);
    const size_t state = (size_t)(s->num_layers * D * in->B * s->hidden_size) * real(s);
    void *const x = memory(rows * (size_t)I, in->byte), *const y = memory(rows * (size_t)DH, 0);
    void *const h = memory(state, in->byte), *const hn = memory(state, 0), *const dx = memory(rows * (size_t)I, 0);
    void *const tape = in->training ? memory(tape_bytes, 0) : NULL, *const workspace = memory(workspace_bytes, 0);
    const clstm_sequence seq = {.T = in->T,
                                .B = in->B,
                                .lengths = in->has_lengths ? in->lengths : NULL,
                                .x = x,
                                .x_time_stride = in->B * I,
                                .x_row_stride = I,
                                .h0 = in->has_state ? h : NULL,
                                .y = y,
                                .y_time_stride = in->B * DH,
                                .y_row_stride = DH,
                                .hn = hn};
    const int status = clstm_forward(s, pack, &seq, tape, workspace, workspace_bytes - in->short_workspace);
    if (status == CLSTM_OK && tape) {
        void **const dparams = parameters(s, 0);
        const clstm_gradients grads = {.dy = y,
                                       .dy_time_stride = in->B * DH,
                                       .dy_row_stride = DH,
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

/* Sizes of one axis are mostly small, so that calls are made; but any number can come. */
static int64_t often_small(int64_t n) { return n & 256 ? n : n & 15; }

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    input in = {.spec = {0}};
    memcpy(&in, bytes, size < sizeof in ? size : sizeof in);
    clstm_spec *const s = &in.spec;
    s->input_size = often_small(s->input_size);
    s->hidden_size = often_small(s->hidden_size);
    s->num_layers = often_small(s->num_layers);
    in.T = often_small(in.T);
    in.B = often_small(in.B);
    s->bias &= 3, s->bidirectional &= 3, s->dtype &= 3;
    in.training &= 1;
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
