/* Runs audio through a model, sample by sample, without Python.
 *
 *     audio model.safetensors < in.f32 > out.f32
 *
 * Audio is raw float32, one channel. The model is an LSTM with one input, and a linear layer with one output on it:
 *
 *     clstm.Sequential(clstm.LSTM(1, 40), clstm.Linear(40, 1)).save("model.safetensors")
 *
 * Build, after `make install PREFIX=$HOME/.local`:
 *
 *     export PKG_CONFIG_PATH=$HOME/.local/lib/pkgconfig
 *     cc -O2 examples/audio.c -o audio $(pkg-config --cflags --libs clstm)
 *
 * All memory is taken before the first sample. run_block allocates nothing, takes no lock and makes no system call, so
 * it may stand in an audio callback. */
#include <clstm.h>

#include "safetensors.h"

enum { BLOCK = 256, PARAMS = 4 };

typedef struct model {
    clstm_spec spec;
    float *params[PARAMS];              /* weight_ih, weight_hh, bias_ih, bias_hh */
    float *linear_weight, *linear_bias; /* (1, H), (1) */
    void *pack;
    float *h[2], *c; /* (H): h before the step and after it */
} model;

/* ---- before the first sample ---- */

static int load(model *m, const safetensors *f) {
    static const char *const names[PARAMS] = {"0.weight_ih_l0", "0.weight_hh_l0", "0.bias_ih_l0", "0.bias_hh_l0"};
    uint64_t shapes[PARAMS][2], weight[2], bias[2];
    for (int i = 0; i < PARAMS; i++)
        if (!(m->params[i] = safetensors_array(f, names[i], shapes[i])))
            return 0;
    m->linear_weight = safetensors_array(f, "1.weight", weight);
    m->linear_bias = safetensors_array(f, "1.bias", bias);
    if (!m->linear_weight || !m->linear_bias)
        return 0;
    const uint64_t H = shapes[1][1];
    for (int i = 0; i < PARAMS; i++)
        if (shapes[i][0] != 4 * H || shapes[i][1] != (i == 1 ? H : 1))
            return 0;
    m->spec =
        (clstm_spec){.input_size = 1, .hidden_size = (int64_t)H, .num_layers = 1, .dtype = CLSTM_FLOAT32, .bias = 1};
    return weight[0] == 1 && weight[1] == H && bias[0] == 1 && bias[1] == 1;
}

static int prepare(model *m) {
    const size_t H = (size_t)m->spec.hidden_size;
    size_t bytes;
    if (clstm_pack_size(&m->spec, 0, &bytes) != CLSTM_OK)
        return 0;
    m->pack = aligned_alloc(64, (bytes + 63) / 64 * 64);
    m->h[0] = calloc(H, sizeof(float));
    m->h[1] = calloc(H, sizeof(float));
    m->c = calloc(H, sizeof(float));
    return m->pack && m->h[0] && m->h[1] && m->c &&
           clstm_pack(&m->spec, 0, (const void *const *)m->params, m->pack) == CLSTM_OK;
}

static void drop(model *m) {
    for (int i = 0; i < PARAMS; i++)
        free(m->params[i]);
    free(m->linear_weight);
    free(m->linear_bias);
    free(m->pack);
    free(m->h[0]);
    free(m->h[1]);
    free(m->c);
}

/* ---- a block of samples, in place ---- */

static int run_block(model *m, float *samples, size_t n) {
    for (size_t t = 0; t < n; t++) {
        const int status = clstm_step(&m->spec, m->pack, 1, &samples[t], m->h[0], m->c, m->h[1], m->c);
        if (status != CLSTM_OK)
            return status;
        float *const h = m->h[1];
        m->h[1] = m->h[0];
        m->h[0] = h;
        samples[t] = *m->linear_bias;
        for (int64_t k = 0; k < m->spec.hidden_size; k++)
            samples[t] += m->linear_weight[k] * h[k];
    }
    return CLSTM_OK;
}

/* ---- files ---- */

/* All bytes of a file, or NULL. The caller frees them. */
static char *read_file(const char *path, size_t *size) {
    FILE *const stream = fopen(path, "rb");
    char *bytes = NULL;
    if (stream && fseek(stream, 0, SEEK_END) == 0) {
        const long length = ftell(stream);
        rewind(stream);
        *size = length > 0 ? (size_t)length : 0;
        bytes = malloc(*size + 1);
        if (bytes && fread(bytes, 1, *size, stream) != *size) {
            free(bytes);
            bytes = NULL;
        }
    }
    if (stream)
        fclose(stream);
    return bytes;
}

static int run_stream(model *m, FILE *in, FILE *out) {
    float block[BLOCK];
    for (size_t n; (n = fread(block, sizeof *block, BLOCK, in)) > 0;) {
        const int status = run_block(m, block, n);
        if (status != CLSTM_OK) {
            fprintf(stderr, "audio: %s\n", clstm_strerror(status));
            return 0;
        }
        if (fwrite(block, sizeof *block, n, out) != n)
            return 0;
    }
    return fflush(out) == 0;
}

int main(int argc, char **argv) {
    model m = {0};
    safetensors f;
    size_t size;
    if (argc != 2) {
        fprintf(stderr, "usage: %s model.safetensors < in.f32 > out.f32\n", argv[0]);
        return 2;
    }
    char *const bytes = read_file(argv[1], &size);
    const int ready = bytes && safetensors_open(&f, bytes, size) && load(&m, &f) && prepare(&m);
    free(bytes);
    if (!ready)
        fprintf(stderr, "audio: %s holds no LSTM with one input and a linear layer with one output\n", argv[1]);
    const int done = ready && run_stream(&m, stdin, stdout);
    drop(&m);
    return !done;
}
