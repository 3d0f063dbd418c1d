// Before each .cu file: what nvcc brings by itself; and its operators are registered for CPU
// tensors, in a namespace of their own.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/stable/library.h>

#define EMULATED_wsdan_native wsdan_emulated
#define EMULATED_CUDA CPU
#define EMULATED_CompositeExplicitAutograd CompositeExplicitAutograd

#undef STABLE_TORCH_LIBRARY_IMPL
#define STABLE_TORCH_LIBRARY_IMPL(ns, key, library) \
    _STABLE_TORCH_LIBRARY_IMPL(EMULATED_##ns, EMULATED_##key, library, C10_UID)
