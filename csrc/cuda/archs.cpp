// What the library says of itself: the machine code it holds, and whether the CUDA runtime linked
// into it, which need not be as old as torch's, can use this machine's driver. It has no kernels:
// nvcc hands a .cpp file to the host's compiler alone.
#include <cuda_runtime.h>
#include <torch/csrc/stable/library.h>

#include <string>

#define WSDAN_TEXT(...) #__VA_ARGS__
#define WSDAN_TEXT_OF(...) WSDAN_TEXT(__VA_ARGS__)

namespace wsdan {
namespace {

// Such as "sm_80 sm_90 compute_80": the build names what it compiles for.
std::string archs() {
    return WSDAN_TEXT_OF(WSDAN_CUDA_ARCHS);
}

// Empty, or why the runtime cannot reach the first GPU.
std::string driver_error() {
    int major = 0;
    const cudaError_t error =
        cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, /*device=*/0);
    if (error == cudaSuccess)
        return "";
    cudaGetLastError();  // else the next launch would report it as its own
    return cudaGetErrorString(error);
}

STABLE_TORCH_LIBRARY_IMPL(wsdan_native, CompositeExplicitAutograd, library) {
    library.impl("cuda_archs", TORCH_BOX(&archs));
    library.impl("cuda_driver_error", TORCH_BOX(&driver_error));
}

}  // namespace
}  // namespace wsdan
