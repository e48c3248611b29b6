/* A network's dimensions, and where its parts lie in a pack and on a tape. Internal. */
#ifndef CLSTM_NETWORK_H
#define CLSTM_NETWORK_H

#include <string.h>

#include "arena.h"
#include "clstm.h"
#include "dispatch.h"
#include "kernels.h"

enum { L2_BYTES = 1 << 20 }; /* what is larger is taken to have left the L2 cache when it is wanted again */

/* Dimensions of a checked spec with the kernels that will run it. */
typedef struct network {
    const clstm_spec *spec;
    const kernels *k;
    size_t size; /* bytes of a real */
    idx I, H, L, D;
    idx H_blocks;          /* blocks of VL hidden units */
    int plain;             /* no variant: the fused kernels run it */
    idx P;                 /* features of h: those of the projection, or H */
    idx GH;                /* rows of W_ih and W_hh: H for each gate that has weights */
    idx z_width;           /* columns of the packed ones: plain as in cell_args, else (G, blocks, VL) */
    idx gates_row, dz_row; /* from row to row of a tape's gates, (4, H) or of a variant (z_width), and of dz (GH) */
} network;

int network_is_plain(const clstm_spec *spec);

static inline int network_projects(const network *net) { return net->spec->variant.proj_size != 0; }

static inline int network_normalizes(const network *net) { return net->spec->variant.layer_norm_eps > 0; }

/* Whether training drops elements of the input of a layer. */
static inline int network_drops(const network *net, idx layer) {
    return (layer > 0 && net->spec->dropout > 0) || net->spec->variant.variational_dropout_x > 0;
}

/* Elements of a row of what layer normalisation makes: the gates that have weights, and the cell. */
static inline idx network_normed(const network *net) { return net->z_width + net->H_blocks * net->k->vl; }

/* How far apart rows of n elements lie that are walked across, at the same column of each: multiples of 1 KiB would all
 * fall on a few sets of the L1 cache, so that one line is left free. */
static inline idx spaced_row(size_t size, idx n) { return (size_t)n * size % 1024 ? n : n + 64 / (idx)size; }

static inline network network_of(const clstm_spec *spec, const clstm_isa_kernels *isa) {
    const kernels *k = isa->type[spec->dtype];
    const idx H = (idx)spec->hidden_size, H_blocks = (H + k->vl - 1) / k->vl, G = spec->variant.coupling ? 3 : 4;
    const int plain = network_is_plain(spec), half = plain && is_half_block(H, H_blocks - 1, k->vl);
    const idx z_width = G * (H_blocks * k->vl - (half ? k->vl / 2 : 0));
    const size_t size = spec->dtype == CLSTM_FLOAT32 ? 4 : 8;
    const network net = {.spec = spec,
                         .k = k,
                         .size = size,
                         .I = (idx)spec->input_size,
                         .H = H,
                         .L = (idx)spec->num_layers,
                         .D = spec->bidirectional ? 2 : 1,
                         .H_blocks = H_blocks,
                         .plain = plain,
                         .P = spec->variant.proj_size ? (idx)spec->variant.proj_size : H,
                         .GH = G * H,
                         .z_width = z_width,
                         .gates_row = spaced_row(size, plain ? 4 * H : z_width),
                         .dz_row = spaced_row(size, G * H)};
    return net;
}

/* The layers and directions that a call runs. */
typedef struct layer_range {
    idx layer, end_layer, direction, end_direction;
} layer_range;

/* part: as in clstm_sequence. */
int network_layers_of(const network *net, int64_t part, layer_range *layers);

static inline idx round_up(idx n, idx to) { return (n + to - 1) / to * to; }

static inline idx idx_min(idx a, idx b) { return a < b ? a : b; }

static inline idx network_layer_input(const network *net, idx layer) { return layer ? net->D * net->P : net->I; }

/* Checks the spec and that T and B are sizes. */
int network_check_batch(const clstm_spec *spec, int64_t T, int64_t B);

/* The most that any of this machine's kernels needs of what `bytes_of` measures. Packs keep their kernels, which need
 * not be the current ones. */
int network_most_bytes(const clstm_spec *spec, int64_t T, int64_t B,
                       int (*bytes_of)(const network *net, idx T, idx B, size_t *bytes), size_t *most);

/* The address of element i of an array of reals. Of NULL it is never used, and any (in C, NULL + 1 is an error). */
static inline void *at(const network *net, const void *p, idx i) {
    return (void *)((uintptr_t)p + (uintptr_t)(i * (idx)net->size));
}

/* ---- pack ---- */

enum { PACK_MAGIC = 0xc157 };

/* Starts every pack. */
typedef struct pack_header {
    uint32_t magic;
    int32_t isa; /* index for clstm_kernels_at */
    int32_t training;
    clstm_spec spec;
} pack_header;

/* The packed weights of one layer and direction. */
typedef struct layer_weights {
    void *bias;        /* (z_width): bias_ih + bias_hh */
    void *w_ih, *w_hh; /* (I, z_width) and (H, z_width) in gemm panels */
    void *w_ih_panels; /* for training: (4H, I) and (4H, H) in gemm panels, for dx and dh */
    void *w_hh_panels;
    void *w_hr, *w_hr_panels; /* of a projection: (H, P) in gemm panels; for training, (P, H) too */
    void *peepholes;          /* (2 or 3, H): of i, f, o, as far as they exist */
    void *gain, *shift; /* (G + 1, blocks, VL) of layer normalisation: bias is 0 then, and shift that of the spec */
    void *h0, *c0;      /* (P), (H) learned initial state */
} layer_weights;        /* of a variant, bias is (G, blocks, VL), and 4H stands for GH and H for P where h goes in */

int network_pack_size(const network *net, int training, size_t *bytes);

/* The weights of a layer and direction in a pack. */
layer_weights network_weights(const network *net, const void *pack, idx layer, idx direction);

/* Places of the parameter arrays of a layer and direction among each other; -1: the network has none. */
typedef struct param_places {
    int weight_hr, weight_ch, weight_ln, weight_ln_c, bias_ln_c, h0, c0, count; /* weight_ih is 0, weight_hh 1, the
                                                                                   biases 2 and 3 */
} param_places;

param_places network_param_places(const clstm_spec *spec);

/* The same weights fit both. (dropout is a matter of the call.) */
int network_same(const clstm_spec *a, const clstm_spec *b);

/* Checks that a pack belongs to the spec and, with `training`, holds the panels; fills in the network. */
int network_open_pack(const clstm_spec *spec, const void *pack, int training, network *net);

/* ---- tape ---- */

enum { TAPE_MAGIC = 0x7a9e };

/* Starts every tape. */
typedef struct tape_header {
    uint32_t magic;
    int32_t has_lengths, has_order, has_h0, has_c0; /* that the caller gave */
    clstm_spec spec;
    int64_t T, B;
    uint64_t seed;
    int64_t first_step, part;
} tape_header;

/* What one layer and direction records. */
typedef struct direction_tape {
    void *gates; /* (T, B, 4, H), rows gates_row apart; of a variant, pre-activations (T, B, G, H rounded up to VL) */
    void *c;     /* (T, B, H) */
    void *out;   /* (T, B, H) what a projection projects, or NULL */
} direction_tape;

/* The parts of a tape. */
typedef struct tape_parts {
    tape_header *header;
    int64_t *lengths; /* (B) */
    int64_t *order;   /* (B) */
    void *h0, *c0;    /* (L*D, B, P) and (L*D, B, H) */
    void *x;          /* (T, B, I) */
} tape_parts;

tape_parts network_tape(const network *net, const void *tape, idx T, idx B);
direction_tape network_direction_tape(const network *net, const void *tape, idx T, idx B, idx layer, idx direction);

/* (T, B, D*P) outputs of a layer; and the same after dropout, which is what the next layer saw. */
void *network_tape_output(const network *net, const void *tape, idx T, idx B, idx layer);
void *network_tape_dropped(const network *net, const void *tape, idx T, idx B, idx layer);

/* ---- sequences ---- */

/* A (T, B, n) array with any strides on its first two axes. */
typedef struct plane {
    void *p;
    idx time, row; /* strides in elements */
} plane;

static inline plane plane_of(const void *p, idx time, idx row) {
    const plane a = {(void *)(uintptr_t)p, time, row};
    return a;
}

static inline void *plane_at(const network *net, plane a, idx t, idx row) {
    return at(net, a.p, t * a.time + row * a.row);
}

/* Rows (of the first `rows`, from `first`) that are valid at step t; active[t] counts them over the batch, longest
 * first. */
static inline idx active_rows(const int64_t *active, idx T, idx t, idx first, idx rows) {
    if (t < 0 || t >= T)
        return 0;
    if (!active)
        return rows;
    const idx n = (idx)active[t] - first;
    return n < 0 ? 0 : n < rows ? n : rows;
}

/* Fills active (T) from lengths (B), longest first. */
int network_count_active(const int64_t *lengths, idx T, idx B, int64_t *active);

/* Whether every row of order (B), which may be NULL, is one of the batch. */
int network_check_order(const int64_t *order, idx B);

/* Where the rows of the caller's arrays are: row b of ours, which start at row `first` of the batch, is row
 * order[first + b] of theirs; first + b if order is NULL. */
typedef struct caller_rows {
    const int64_t *order;
    idx first;
} caller_rows;

static inline void *caller_at(const network *net, caller_rows c, plane a, idx t, idx row) {
    return plane_at(net, a, t, c.order ? (idx)c.order[c.first + row] : c.first + row);
}

/* Copies n values of rows begin .. end of step from_t of the caller's array to step to_t of ours. */
static inline void take_rows(const network *net, caller_rows c, plane theirs, idx from_t, plane ours, idx to_t,
                             idx begin, idx end, idx n) {
    for (idx row = begin; row < end; row++)
        memcpy(plane_at(net, ours, to_t, row), caller_at(net, c, theirs, from_t, row), (size_t)n * net->size);
}

/* The other way round. */
static inline void give_rows(const network *net, caller_rows c, plane ours, idx from_t, plane theirs, idx to_t,
                             idx begin, idx end, idx n) {
    for (idx row = begin; row < end; row++)
        memcpy(caller_at(net, c, theirs, to_t, row), plane_at(net, ours, from_t, row), (size_t)n * net->size);
}

/* ---- splitting a batch among threads ---- */

/* n rows, units, steps or columns in `parts` runs, as even as multiples of `multiple` allow. */
typedef struct even_split {
    idx n, multiple, parts;
} even_split;

/* Multiply-adds of some layers and directions forward. */
double network_work(const network *net, idx T, idx B, layer_range layers);

/* Multiply-adds for each lane of a vector that a thread's part of a job has at least: */
enum {
    WORTH_WAKING = 200000, /* about as long as a sleeping worker takes to wake up: 30 us on Zen 5 with AVX-512 */
    WORTH_SHARING = 125000 /* workers are awake, but their processors lack the data: 20 us on the same machine */
};

/* How many threads, at most `threads`, a job of `work` multiply-adds is worth. rows: how many rows use each weight that
 * is fetched; worth: one of the above. */
idx network_worth_parts(const network *net, double work, idx rows, double worth, idx threads);

/* How threads share a call: parts of the rows, or, where these are too few, pieces of the units of each step. One of
 * the two is 1. */
typedef struct work_split {
    even_split rows;
    idx pieces;
} work_split;

/* What there is to share. */
typedef struct work_to_split {
    double in_rows;  /* multiply-adds of the job that parts of the rows would share */
    double in_units; /* of the job that pieces of the units of each step would share; 0: they must not */
    double worth;    /* WORTH_WAKING or WORTH_SHARING */
    idx threads;     /* at most */
} work_to_split;

work_split network_split_work(const network *net, idx T, idx B, const work_to_split *work);

/* Whether a call of so many multiply-adds had better run whole on its caller's thread: all places are taken, and it
 * will be over before it could gain much from one that becomes free. */
int network_stays_alone(double work);

static inline idx split_start(const even_split *s, idx part) {
    const idx multiples = (s->n + s->multiple - 1) / s->multiple, start = multiples * part / s->parts * s->multiple;
    return start < s->n ? start : s->n;
}

typedef struct range {
    idx begin, end;
} range;

static inline range split_range(const even_split *s, idx part) {
    const range r = {split_start(s, part), split_start(s, part + 1)};
    return r;
}

/* What the longest run has. */
static inline idx split_most(const even_split *s) {
    const idx multiples = (s->n + s->multiple - 1) / s->multiple;
    return (multiples + s->parts - 1) / s->parts * s->multiple;
}

#endif
