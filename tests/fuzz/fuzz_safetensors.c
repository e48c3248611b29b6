/* The examples' reader of safetensors files, on any bytes: no read leaves them, and an array has its shape's size. */
#include "safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    static const char *const names[] = {"a", "0.weight_ih_l0", "1.bias"};
    safetensors f;
    if (!safetensors_open(&f, (const char *)bytes, size))
        return 0;
    for (int i = 0; i < 3; i++) {
        uint64_t shape[2];
        float *const array = safetensors_array(&f, names[i], shape);
        for (uint64_t k = 0; array && k < shape[0] * shape[1]; k++)
            if (array[k] == 12345.0f) /* reads it */
                array[k] = 0;
        free(array);
    }
    return 0;
}
