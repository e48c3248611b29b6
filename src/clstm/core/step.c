/* One step of the whole stack, for streams; and the elementwise functions by themselves. */
#include "fpmode.h"
#include "network.h"

int clstm_step(const clstm_spec *spec, const void *pack, int64_t B, const void *x, const void *h_in, const void *c_in,
               void *h_out, void *c_out) {
    network net;
    const int status = network_open_pack(spec, pack, 0, &net);
    if (status)
        return status;
    if (net.D != 1 || !net.plain)
        return CLSTM_ERROR_STREAM;
    if (network_check_batch(spec, 1, B))
        return CLSTM_ERROR_SIZE;
    if (B == 0)
        return CLSTM_OK;
    if (!x || !h_in || !c_in || !h_out || !c_out)
        return CLSTM_ERROR_NULL;
    const fpmode saved = fpmode_enter();
    for (idx layer = 0; layer < net.L; layer++) {
        const layer_weights w = network_weights(&net, pack, layer, 0);
        const idx state = layer * (idx)B * net.H, below = state - (idx)B * net.H;
        const cell_args g = {.steps = 1,
                             .rows = (idx)B,
                             .H = net.H,
                             .end_block = net.H_blocks,
                             .init = w.bias,
                             .x = layer ? at(&net, h_out, below) : x,
                             .x_row = network_layer_input(&net, layer),
                             .I = network_layer_input(&net, layer),
                             .h = at(&net, h_in, state),
                             .h_row = net.H,
                             .w_ih = w.w_ih,
                             .w_hh = w.w_hh,
                             .c = at(&net, c_in, state),
                             .c_row = net.H,
                             .c_out = at(&net, c_out, state),
                             .c_out_row = net.H,
                             .h_out = at(&net, h_out, state),
                             .h_out_row = net.H};
        net.k->cell(&g);
    }
    fpmode_leave(saved);
    return CLSTM_OK;
}

int clstm_apply(int function, int dtype, int64_t n, const void *x, void *y) {
    if (function < CLSTM_EXP || function > CLSTM_TANH || (dtype != CLSTM_FLOAT32 && dtype != CLSTM_FLOAT64))
        return CLSTM_ERROR_SPEC;
    if (n < 0)
        return CLSTM_ERROR_SIZE;
    if (n && (!x || !y))
        return CLSTM_ERROR_NULL;
    const fpmode saved = fpmode_enter();
    clstm_current_kernels()->type[dtype]->apply(function, (idx)n, x, y);
    fpmode_leave(saved);
    return CLSTM_OK;
}
