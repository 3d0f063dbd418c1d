// Stands in for CUDA's own header of this name, so that g++ compiles the .cu files unmodified: what
// nvcc predefines, and as much of the runtime's host interface as the launchers use.
#pragma once

#include <cstddef>
#include <cstdint>
#include <tuple>
#include <utility>

#define __global__
#define __device__
#define __host__
// The one array of dynamic shared memory is a global of the emulator; g++ refuses the attribute for
// a variable of a function, which each thread would have for itself.
#define __shared__ __attribute__((weak))
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)

struct uint3 {
    unsigned x, y, z;
};

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// Of the thread that runs; the scheduler sets them.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

enum cudaError_t : int {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorLaunchFailure = 719,
};

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };

enum cudaDeviceAttr {
    cudaDevAttrMaxThreadsPerBlock = 1,
    cudaDevAttrMaxSharedMemoryPerBlock = 8,
    cudaDevAttrMultiProcessorCount = 16,
    cudaDevAttrMaxThreadsPerMultiProcessor = 39,
    cudaDevAttrComputeCapabilityMajor = 75,
    cudaDevAttrComputeCapabilityMinor = 76,
    cudaDevAttrMaxSharedMemoryPerMultiprocessor = 81,
    cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
};

using cudaStream_t = struct CUstream_st*;
struct cudaLaunchAttribute;

struct cudaLaunchConfig_t {
    dim3 gridDim;
    dim3 blockDim;
    size_t dynamicSmemBytes;
    cudaStream_t stream;
    cudaLaunchAttribute* attrs;
    unsigned numAttrs;
};

// After a failed launch the text of its error says what the emulator found.
const char* cudaGetErrorString(cudaError_t error);
const char* cudaGetErrorName(cudaError_t error);
cudaError_t cudaGetLastError();
cudaError_t cudaPeekAtLastError();
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);

namespace emulator {

cudaError_t set_attribute(const void* kernel, cudaFuncAttribute attribute, int value);
// What every thread of a grid does: run(data), `size` bytes that no kernel writes.
struct Call {
    void (*run)(const void*);
    const void* data;
    size_t size;
};
cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel, const Call& call);

}  // namespace emulator

template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute attribute, int value) {
    return emulator::set_attribute(reinterpret_cast<const void*>(kernel), attribute, value);
}

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(
    const cudaLaunchConfig_t* config, void (*kernel)(Parameters...), Arguments&&... arguments
) {
    using Values = std::tuple<Parameters...>;
    const std::pair<void (*)(Parameters...), Values> bound(
        kernel, Values(std::forward<Arguments>(arguments)...)
    );
    const auto run = [](const void* data) {
        const auto& [function, values] = *static_cast<decltype(&bound)>(data);
        std::apply(function, values);
    };
    return emulator::launch(
        *config, reinterpret_cast<const void*>(kernel), {run, &bound, sizeof(bound)}
    );
}

#include "device_functions.h"
