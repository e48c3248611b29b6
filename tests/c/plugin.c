/* A library that programs load and close while they run, as hosts of audio plugins do. See plugin_host.c. */
#include <clstm.h>

#include <stdlib.h>

enum { T = 50, B = 64, H = 64 };

static void *allocate(size_t bytes) { return aligned_alloc(64, (bytes + 63) / 64 * 64); }

int run(void);

/* A call that three threads share; 0 if it succeeds. */
int run(void) {
    static const float weights[4 * H * H];
    static float x[T * B], y[T * B * H];
    const clstm_spec spec = {.input_size = 1, .hidden_size = H, .num_layers = 1};
    const clstm_sequence seq = {.T = T,
                                .B = B,
                                .x = x,
                                .x_time_stride = B,
                                .x_row_stride = 1,
                                .y = y,
                                .y_time_stride = B * H,
                                .y_row_stride = H};
    size_t pack_bytes = 0, bytes = 0;
    clstm_set_num_threads(3);
    clstm_pack_size(&spec, 0, &pack_bytes);
    clstm_forward_workspace(&spec, T, B, &bytes);
    void *pack = allocate(pack_bytes), *workspace = allocate(bytes);
    int status = clstm_pack(&spec, 0, (const void *const[]){weights, weights}, pack);
    if (status == CLSTM_OK)
        status = clstm_forward(&spec, pack, &seq, NULL, workspace, bytes);
    free(pack);
    free(workspace);
    return status;
}
