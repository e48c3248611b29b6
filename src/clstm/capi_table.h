/* The table that _core hands out: see clstm_capi.h. Compiled with CLSTM_CAPI_IMPLEMENTATION; _core adds borrow_pack. */
#ifndef CLSTM_CAPI_TABLE_H
#define CLSTM_CAPI_TABLE_H

#include "clstm_capi.h"

static clstm_capi capi_table = {
    .abi_major = CLSTM_ABI_MAJOR,
    .abi_minor = CLSTM_ABI_MINOR,
    .strerror = clstm_strerror,
    .version = clstm_version,
    .isa = clstm_isa,
    .isa_reason = clstm_isa_reason,
    .isa_available = clstm_isa_available,
    .set_isa = clstm_set_isa,
    .set_num_threads = clstm_set_num_threads,
    .get_num_threads = clstm_get_num_threads,
    .check_spec = clstm_check_spec,
    .num_params = clstm_num_params,
    .param_shape = clstm_param_shape,
    .pack_size = clstm_pack_size,
    .pack = clstm_pack,
    .forward_workspace = clstm_forward_workspace,
    .backward_workspace = clstm_backward_workspace,
    .tape_size = clstm_tape_size,
    .forward = clstm_forward,
    .backward = clstm_backward,
    .step = clstm_step,
    .apply = clstm_apply,
};

#endif
