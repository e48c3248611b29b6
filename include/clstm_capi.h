/* clstm for C extension modules of Python: the functions of clstm.h, taken from the installed package.
 *
 *     #include "clstm_capi.h"                 // in the directory that clstm.get_include() names
 *
 *     static int exec(PyObject *module) {     // or the module's init function
 *         return import_clstm();              // -1 with ImportError set, if the package is missing or too old
 *     }
 *
 * After that, the functions of clstm.h are called by their names; nothing is linked. The table that they come from is a
 * static variable of the C file that includes this header, so each C file imports for itself. */
#ifndef CLSTM_CAPI_H
#define CLSTM_CAPI_H

#include <Python.h>

#include "clstm.h"

#define CLSTM_CAPI_CAPSULE "clstm._core._capi"

/* Grows at its end in a minor version of the binary interface; anything else is a new major one. */
typedef struct clstm_capi {
    int abi_major, abi_minor; /* of the package that offers it */
    const char *(*strerror)(int status);
    const char *(*version)(void);
    const char *(*isa)(void);
    const char *(*isa_reason)(void);
    const char *(*isa_available)(int i);
    int (*set_isa)(const char *name);
    int (*set_num_threads)(int n);
    int (*get_num_threads)(void);
    int (*check_spec)(const clstm_spec *spec);
    int64_t (*num_params)(const clstm_spec *spec);
    int (*param_shape)(const clstm_spec *spec, int64_t index, int64_t *rows, int64_t *columns);
    int (*pack_size)(const clstm_spec *spec, int training, size_t *bytes);
    int (*pack)(const clstm_spec *spec, int training, const void *const *params, void *pack);
    int (*forward_workspace)(const clstm_spec *spec, int64_t T, int64_t B, size_t *bytes);
    int (*backward_workspace)(const clstm_spec *spec, int64_t T, int64_t B, size_t *bytes);
    int (*tape_size)(const clstm_spec *spec, int64_t T, int64_t B, size_t *bytes);
    int (*forward)(const clstm_spec *spec, const void *pack, const clstm_sequence *seq, void *tape, void *workspace,
                   size_t workspace_bytes);
    int (*backward)(const clstm_spec *spec, const void *pack, const void *tape, const clstm_gradients *grads,
                    void *workspace, size_t workspace_bytes);
    int (*step)(const clstm_spec *spec, const void *pack, int64_t B, const void *x, const void *h_in, const void *c_in,
                void *h_out, void *c_out);
    int (*apply)(int function, int dtype, int64_t n, const void *x, void *y);
    PyObject *(*borrow_pack)(PyObject *lstm, int training, clstm_spec *spec, const void **pack);
} clstm_capi;

#if !defined(CLSTM_CAPI_IMPLEMENTATION)

static const clstm_capi *clstm_capi_table;

#define clstm_strerror clstm_capi_table->strerror
#define clstm_version clstm_capi_table->version
#define clstm_isa clstm_capi_table->isa
#define clstm_isa_reason clstm_capi_table->isa_reason
#define clstm_isa_available clstm_capi_table->isa_available
#define clstm_set_isa clstm_capi_table->set_isa
#define clstm_set_num_threads clstm_capi_table->set_num_threads
#define clstm_get_num_threads clstm_capi_table->get_num_threads
#define clstm_check_spec clstm_capi_table->check_spec
#define clstm_num_params clstm_capi_table->num_params
#define clstm_param_shape clstm_capi_table->param_shape
#define clstm_pack_size clstm_capi_table->pack_size
#define clstm_pack clstm_capi_table->pack
#define clstm_forward_workspace clstm_capi_table->forward_workspace
#define clstm_backward_workspace clstm_capi_table->backward_workspace
#define clstm_tape_size clstm_capi_table->tape_size
#define clstm_forward clstm_capi_table->forward
#define clstm_backward clstm_capi_table->backward
#define clstm_step clstm_capi_table->step
#define clstm_apply clstm_capi_table->apply

/* The weights of a clstm.LSTM as they are now, packed: fills in spec and pack, and returns a new reference to what
 * keeps them alive, or NULL with an exception set (TypeError if it is no clstm.LSTM). Later changes of the LSTM's
 * weights do not reach this pack. Needs the GIL, or an attached thread state; the pack itself does not. */
#define clstm_borrow_pack clstm_capi_table->borrow_pack

/* 0 when the installed clstm offers the interface that this file is compiled for; else -1, with ImportError set. */
static inline int import_clstm(void) {
    const clstm_capi *table = NULL;
    PyObject *module = PyImport_ImportModule("clstm._core");
    if (!module)
        return -1;
    PyObject *capsule = PyObject_GetAttrString(module, "_capi");
    Py_DECREF(module);
    if (!capsule)
        return -1;
    table = (const clstm_capi *)PyCapsule_GetPointer(capsule, CLSTM_CAPI_CAPSULE);
    Py_DECREF(capsule); /* the module keeps it */
    if (!table)
        return -1;
    if (table->abi_major != CLSTM_ABI_MAJOR || table->abi_minor < CLSTM_ABI_MINOR) {
        PyErr_Format(PyExc_ImportError,
                     "this module was compiled for version %d.%d of clstm's C interface, but the installed clstm %s "
                     "offers version %d.%d",
                     CLSTM_ABI_MAJOR, CLSTM_ABI_MINOR, table->version(), table->abi_major, table->abi_minor);
        return -1;
    }
    clstm_capi_table = table;
    return 0;
}

#endif
#endif /* CLSTM_CAPI_H */
