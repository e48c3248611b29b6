/* Makes packs: weights in the order in which kernels read them. What a pack looks like: network.h. */
#include "network.h"

#include <string.h>

#include "dispatch.h"
#include "threads.h"

/* The kernels of a new pack. Half a vector of hidden units is faster as a vector of half the length, whose divisions
 * are; but not the products of many inputs. */
static const clstm_isa_kernels *kernels_for(const clstm_spec *spec) {
    const clstm_isa_kernels *isa = clstm_current_kernels();
    const network net = network_of(spec, isa);
    return isa->narrow && net.plain && net.H <= net.k->vl / 2 && net.I <= net.k->vl ? isa->narrow : isa;
}

int clstm_pack_size(const clstm_spec *spec, int training, size_t *bytes) {
    const int status = clstm_check_spec(spec);
    if (status)
        return status;
    const network net = network_of(spec, kernels_for(spec));
    return bytes ? network_pack_size(&net, training, bytes) : CLSTM_ERROR_NULL;
}

/* A (rows, columns) matrix in gemm panels. */
typedef struct panels {
    void *p;
    idx rows, columns;
} panels;

/* Transposes a piece of a matrix to the panels, from (row, col) on. */
static void transpose(const network *net, pack_columns_args piece, const panels *to, idx row, idx col) {
    const idx panel = col / net->k->panel * net->k->panel;
    piece.dst_row = idx_min(to->columns - panel, net->k->panel);
    piece.dst = at(net, to->p, panel * to->rows + row * piece.dst_row + (col - panel));
    net->k->pack_columns(&piece);
}

/* Columns of each gate in a block of hidden units. */
static idx gate_lanes(const network *net, idx block) {
    return net->plain && is_half_block(net->H, block, net->k->vl) ? net->k->vl / 2 : net->k->vl;
}

/* Column of z where a gate of a block of hidden units begins. */
static idx gate_column(const network *net, idx gate, idx block) {
    return net->plain ? block * 4 * net->k->vl + gate * gate_lanes(net, block)
                      : (gate * net->H_blocks + block) * net->k->vl;
}

/* What is packed at a time: multiples of every vector's and every panel's elements. */
enum { UNITS = 16, COLUMNS = 64 };

/* W (GH, K), transposed, to gemm panels of z_width columns, where the gates of a unit are neighbours; and as it is to
 * its own panels, unless those are NULL. W is read once, a small piece at a time. */
static void pack_gates(const network *net, range units, const void *W, idx K, void *z_panels, void *own_panels) {
    const idx vl = net->k->vl;
    const panels z = {z_panels, K, net->z_width};
    for (idx unit = units.begin; unit < units.end; unit += UNITS) {
        const idx n = idx_min(units.end - unit, UNITS);
        for (idx k = 0; k < K; k += COLUMNS) {
            const idx count = idx_min(K - k, COLUMNS);
            for (idx gate = 0; gate < net->GH / net->H; gate++) {
                const idx row = gate * net->H + unit;
                const void *src = at(net, W, row * K + k);
                for (idx i = 0; i < n; i += vl) {
                    const idx block = (unit + i) / vl;
                    const pack_columns_args piece = {.K = count,
                                                     .n = idx_min(n - i, vl),
                                                     .lanes = gate_lanes(net, block),
                                                     .src = at(net, src, i * K),
                                                     .src_row = K};
                    transpose(net, piece, &z, k, gate_column(net, gate, block));
                }
                if (own_panels) {
                    const pack_rows_args piece = {.K = n,
                                                  .n = count,
                                                  .src = src,
                                                  .src_row = K,
                                                  .dst = at(net, own_panels, k * net->GH),
                                                  .row = row,
                                                  .rows = net->GH};
                    net->k->pack_rows(&piece);
                }
            }
        }
    }
}

/* W (N, K), transposed, to gemm panels. */
static void pack_transposed(const network *net, const void *W, idx N, idx K, void *dst) {
    const idx vl = net->k->vl;
    const panels to = {dst, K, round_up(N, vl)};
    for (idx col = 0; col < N; col += vl) {
        const pack_columns_args piece = {
            .K = K, .n = idx_min(N - col, vl), .lanes = vl, .src = at(net, W, col * K), .src_row = K};
        transpose(net, piece, &to, 0, col);
    }
}

/* W (rows, N) to gemm panels. */
static void pack_straight(const network *net, const void *W, idx rows, idx N, void *dst) {
    const pack_rows_args all = {.K = rows, .n = N, .src = W, .src_row = N, .dst = dst, .rows = rows};
    net->k->pack_rows(&all);
}

/* bias_ih + bias_hh, in the order of the blocks; zeros without bias. */
static void pack_bias(const network *net, range units, const void *ih, const void *hh, void *dst) {
    const idx vl = net->k->vl;
    for (idx block = units.begin / vl; block * vl < units.end; block++) {
        for (idx gate = 0; gate < net->GH / net->H; gate++) {
            for (idx lane = 0; lane < gate_lanes(net, block); lane++) {
                const idx unit = block * vl + lane, to = gate_column(net, gate, block) + lane;
                const idx from = gate * net->H + unit;
                const int bias = ih && unit < net->H;
                if (net->spec->dtype == CLSTM_FLOAT32)
                    ((float *)dst)[to] = bias ? ((const float *)ih)[from] + ((const float *)hh)[from] : 0;
                else
                    ((double *)dst)[to] = bias ? ((const double *)ih)[from] + ((const double *)hh)[from] : 0;
            }
        }
    }
}

/* Gains and biases of layer normalisation, rows of H rounded up to VL; without biases zeros. */
static void pack_normalization(const network *net, const void *const *params, const layer_weights *w) {
    const param_places p = network_param_places(net->spec);
    const idx width = net->H_blocks * net->k->vl;
    const range all = {0, net->H};
    for (idx gate = 0; gate < net->GH / net->H; gate++)
        pack_straight(net, at(net, params[p.weight_ln], gate * net->H), 1, net->H, at(net, w->gain, gate * width));
    pack_straight(net, params[p.weight_ln_c], 1, net->H, at(net, w->gain, net->z_width));
    memset(w->shift, 0, (size_t)network_normed(net) * net->size);
    if (net->spec->bias) {
        pack_bias(net, all, params[2], params[3], w->shift);
        pack_straight(net, params[p.bias_ln_c], 1, net->H, at(net, w->shift, net->z_width));
    }
}

/* What only variants have. params: those of the layer and direction. */
static void pack_variant(const network *net, const void *const *params, const layer_weights *w) {
    const param_places p = network_param_places(net->spec);
    if (w->w_hr)
        pack_transposed(net, params[p.weight_hr], net->P, net->H, w->w_hr);
    if (w->w_hr_panels)
        pack_straight(net, params[p.weight_hr], net->P, net->H, w->w_hr_panels);
    if (w->peepholes)
        memcpy(w->peepholes, params[p.weight_ch], (size_t)(net->GH - net->H) * net->size);
    if (network_normalizes(net))
        pack_normalization(net, params, w);
    if (w->h0) {
        memcpy(w->h0, params[p.h0], (size_t)net->P * net->size);
        memcpy(w->c0, params[p.c0], (size_t)net->H * net->size);
    }
}

typedef struct pack_call {
    network net;
    const void *const *params;
    void *pack;
    int parts; /* of the hidden units */
} pack_call;

static void pack_units(void *context, int part) {
    const pack_call *c = context;
    const network *net = &c->net;
    const even_split split = {.n = net->H, .multiple = UNITS, .parts = c->parts};
    const range units = split_range(&split, part);
    const void *const *params = c->params;
    for (idx index = 0; index < net->L * net->D; index++, params += network_param_places(net->spec).count) {
        const idx layer = index / net->D;
        const layer_weights w = network_weights(net, c->pack, layer, index % net->D);
        const int bias = net->spec->bias && !network_normalizes(net);
        pack_bias(net, units, bias ? params[2] : NULL, bias ? params[3] : NULL, w.bias);
        pack_gates(net, units, params[0], network_layer_input(net, layer), w.w_ih, w.w_ih_panels);
        pack_gates(net, units, params[1], net->P, w.w_hh, w.w_hh_panels);
        if (part == 0 && !net->plain)
            pack_variant(net, params, &w);
    }
}

/* How many threads share a pack: two from twice BYTES_OF_A_PART on, which takes longer than to wake one up. */
static int parts_of(const network *net, int training) {
    enum { BYTES_OF_A_PART = 2 << 20 };
    size_t bytes = 0;
    network_pack_size(net, training, &bytes);
    const idx parts = idx_min((idx)(bytes / BYTES_OF_A_PART), net->H / UNITS);
    return parts < 2 ? 1 : (int)idx_min(parts, clstm_most_at_once());
}

int clstm_pack(const clstm_spec *spec, int training, const void *const *params, void *pack) {
    const int status = clstm_check_spec(spec);
    if (status)
        return status;
    if (!params || !pack)
        return CLSTM_ERROR_NULL;
    for (int64_t i = 0; i < clstm_num_params(spec); i++)
        if (!params[i])
            return CLSTM_ERROR_NULL;
    const clstm_isa_kernels *isa = kernels_for(spec);
    pack_call c = {.net = network_of(spec, isa), .params = params, .pack = pack};
    pack_header *header = pack;
    memset(header, 0, sizeof *header);
    header->magic = PACK_MAGIC;
    header->isa = clstm_isa_index(isa->name);
    header->training = training != 0;
    header->spec = *spec;
    c.parts = parts_of(&c.net, training);
    clstm_parallel(c.parts, pack_units, &c);
    return CLSTM_OK;
}
