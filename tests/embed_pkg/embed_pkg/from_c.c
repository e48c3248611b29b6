/* The same network that reads its own output, in a plain C extension. */
#define PY_SSIZE_T_CLEAN
#include "clstm_capi.h"

/* y (steps, H) from x (H); state: zeros (2, H), h before the first step and c. */
static int run(const clstm_spec *spec, const void *pack, const float *x, float *state, Py_ssize_t steps, float *y) {
    const int64_t H = spec->hidden_size;
    const float *h = state;
    for (Py_ssize_t t = 0; t < steps; t++) {
        const int status = clstm_step(spec, pack, 1, x, h, state + H, y + t * H, state + H);
        if (status != CLSTM_OK)
            return status;
        x = h = y + t * H;
    }
    return CLSTM_OK;
}

static int fits(const clstm_spec *spec, const Py_buffer *x, Py_ssize_t steps) {
    if (spec->dtype != CLSTM_FLOAT32 || spec->hidden_size != spec->input_size || spec->num_layers != 1)
        PyErr_SetString(PyExc_ValueError,
                        "a float32 LSTM with one layer and hidden_size equal to input_size is expected");
    else if (x->len != spec->input_size * (Py_ssize_t)sizeof(float))
        PyErr_Format(PyExc_ValueError, "x has %zd bytes, but %lld floats are expected", x->len,
                     (long long)spec->input_size);
    else if (steps < 0)
        PyErr_Format(PyExc_ValueError, "steps is %zd, but at least 0 is expected", steps);
    return !PyErr_Occurred();
}

/* The outputs of run as bytes, or NULL with an exception set. */
static PyObject *outputs(const clstm_spec *spec, const void *pack, const Py_buffer *x, Py_ssize_t steps) {
    const Py_ssize_t row = (Py_ssize_t)(spec->hidden_size * (int64_t)sizeof(float));
    PyObject *y = PyBytes_FromStringAndSize(NULL, steps * row);
    float *state = PyMem_Calloc(2, (size_t)row);
    if (!y || !state) {
        Py_XDECREF(y);
        PyMem_Free(state);
        return PyErr_NoMemory();
    }
    float *y_data = (float *)(void *)PyBytes_AsString(y);
    int status;
    Py_BEGIN_ALLOW_THREADS status = run(spec, pack, x->buf, state, steps, y_data);
    Py_END_ALLOW_THREADS PyMem_Free(state);
    if (status == CLSTM_OK)
        return y;
    Py_DECREF(y);
    PyErr_SetString(PyExc_ValueError, clstm_strerror(status));
    return NULL;
}

/* rollout(lstm, x, steps): the outputs of a float32 LSTM with H = I that reads x first and then its own output. */
static PyObject *rollout(PyObject *self, PyObject *args) {
    PyObject *lstm, *y = NULL;
    Py_buffer x;
    Py_ssize_t steps;
    clstm_spec spec;
    const void *pack;
    (void)self;
    if (!PyArg_ParseTuple(args, "Oy*n", &lstm, &x, &steps))
        return NULL;
    PyObject *owner = clstm_borrow_pack(lstm, 0, &spec, &pack);
    if (owner && fits(&spec, &x, steps))
        y = outputs(&spec, pack, &x, steps);
    Py_XDECREF(owner);
    PyBuffer_Release(&x);
    return y;
}

static PyMethodDef methods[] = {{"rollout", rollout, METH_VARARGS, NULL}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "from_c", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_from_c(void);
PyMODINIT_FUNC PyInit_from_c(void) {
    PyObject *made = import_clstm() < 0 ? NULL : PyModule_Create(&module);
#if defined(Py_GIL_DISABLED)
    if (made && PyUnstable_Module_SetGIL(made, Py_MOD_GIL_NOT_USED) < 0)
        Py_CLEAR(made);
#endif
    return made;
}
