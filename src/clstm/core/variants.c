#include "variants.h"

static int is_usually_tanh(int which) { return which == GATE_G || which == CELL_OUT; }

static clstm_activation activation_of(const network *net, int which) {
    clstm_activation f = net->spec->variant.activations[which];
    if (f.kind == CLSTM_ACTIVATION_DEFAULT)
        f.kind = is_usually_tanh(which) ? CLSTM_ACTIVATION_TANH : CLSTM_ACTIVATION_SIGMOID;
    return f;
}

static int has_weights(const network *net, int gate) {
    const int coupling = net->spec->variant.coupling;
    if (gate == GATE_I)
        return coupling != CLSTM_COUPLED_INPUT;
    return gate != GATE_F || coupling == CLSTM_UNCOUPLED || coupling == CLSTM_COUPLED_INPUT;
}

variant_cell variant_cell_of(const network *net, const layer_weights *w) {
    const clstm_variant *v = &net->spec->variant;
    variant_cell cell = {.H = net->H,
                         .width = net->H_blocks * net->k->vl,
                         .coupling = v->coupling,
                         .usual = 1,
                         .clip = v->clip,
                         .cell_clip = v->cell_clip,
                         .gain = w->gain,
                         .shift = w->shift,
                         .cell_slot = (int)(net->GH / net->H),
                         .eps = v->layer_norm_eps,
                         .zoneout = v->zoneout_c};
    for (int which = GATE_I; which <= CELL_OUT; which++) {
        cell.function[which] = activation_of(net, which);
        cell.usual &=
            cell.function[which].kind == (is_usually_tanh(which) ? CLSTM_ACTIVATION_TANH : CLSTM_ACTIVATION_SIGMOID);
    }
    for (int gate = GATE_I, slot = 0, peephole = 0; gate <= GATE_O; gate++) {
        cell.slot[gate] = has_weights(net, gate) ? slot++ : -1;
        if (w->peepholes && gate != GATE_G && cell.slot[gate] >= 0)
            cell.peephole[gate] = at(net, w->peepholes, peephole++ * net->H);
    }
    return cell;
}

void variant_step(const network *net, const layer_weights *w, const variant_step_args *g) {
    const gemm_args recurrent = {.groups = 1,
                                 .M = g->rows,
                                 .N = net->z_width,
                                 .K = net->P,
                                 .A = g->factors ? g->factors : g->h,
                                 .a_row = g->factors ? net->P : g->h_row,
                                 .B = w->w_hh,
                                 .init = g->products,
                                 .init_row = net->z_width,
                                 .C = g->step.z,
                                 .c_row = g->step.z_row};
    const product_args masked_h = {.rows = g->rows,
                                   .n = net->P,
                                   .a = g->factors,
                                   .a_row = net->P,
                                   .b = g->h,
                                   .b_row = g->h_row,
                                   .to = g->factors,
                                   .to_row = net->P};
    if (g->factors)
        net->k->variant->product(&masked_h);
    net->k->gemm(&recurrent);
    net->k->variant->step(&g->step);
    const gemm_args projection = {.groups = 1,
                                  .M = g->rows,
                                  .N = net->P,
                                  .K = net->H,
                                  .A = g->step.out,
                                  .a_row = g->step.out_row,
                                  .B = w->w_hr,
                                  .C = g->h_out,
                                  .c_row = g->h_out_row};
    if (network_projects(net))
        net->k->gemm(&projection);
    const hidden_args h = {.rows = g->rows,
                           .n = net->P,
                           .clip = net->spec->variant.proj_clip,
                           .h = g->h_out,
                           .h_row = g->h_out_row,
                           .zoneout = net->spec->variant.zoneout_h,
                           .stays = g->stays,
                           .h_prev = g->h,
                           .h_prev_row = g->h_row};
    if (h.clip > 0 || h.zoneout > 0)
        net->k->variant->hidden(&h);
}

void variant_recurrent_grad(const network *net, const layer_weights *w, const recurrent_grad_args *g) {
    const gemm_args chain = {.groups = 1,
                             .M = g->rows,
                             .N = net->P,
                             .K = net->GH,
                             .A = g->dz,
                             .a_row = net->dz_row,
                             .B = w->w_hh_panels,
                             .init = g->factors ? NULL : g->held,
                             .init_row = net->P,
                             .C = g->dh,
                             .c_row = g->dh_row};
    const product_args factors = {.rows = g->rows,
                                  .n = net->P,
                                  .a = g->factors,
                                  .a_row = net->P,
                                  .b = g->dh,
                                  .b_row = g->dh_row,
                                  .add = g->held,
                                  .add_row = net->P,
                                  .to = g->dh,
                                  .to_row = g->dh_row};
    net->k->gemm(&chain);
    if (g->factors)
        net->k->variant->product(&factors);
}

void variant_step_grad(const network *net, const layer_weights *w, const variant_step_grad_args *g) {
    const int projects = network_projects(net);
    const recurrent_grad_args recurrent = {.rows = g->rows,
                                           .dz = g->dz_next,
                                           .held = g->held,
                                           .factors = g->factors,
                                           .dh = g->dh_next,
                                           .dh_row = g->dh_next_row};
    if (g->dz_next)
        variant_recurrent_grad(net, w, &recurrent);
    const hidden_grad_args hidden = {.rows = g->rows,
                                     .n = net->P,
                                     .clip = net->spec->variant.proj_clip,
                                     .dy = g->dy,
                                     .dy_row = g->dy_row,
                                     .dh_next = g->dh_next,
                                     .dh_next_row = g->dh_next_row,
                                     .stays = g->stays,
                                     .held = g->held,
                                     .h = g->h,
                                     .h_row = g->h_row,
                                     .dh = projects ? g->dh_clipped : g->step.dout,
                                     .dh_row = net->P};
    net->k->variant->hidden_grad(&hidden);
    const gemm_args projection = {.groups = 1,
                                  .M = g->rows,
                                  .N = net->H,
                                  .K = net->P,
                                  .A = g->dh_clipped,
                                  .a_row = net->P,
                                  .B = w->w_hr_panels,
                                  .C = g->step.dout,
                                  .c_row = g->step.dout_row};
    if (projects)
        net->k->gemm(&projection);
    net->k->variant->step_grad(&g->step);
}
