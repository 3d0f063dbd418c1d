// Launches a kernel on a device and one of its streams, and says what failed.
#pragma once

#include <cuda_runtime.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <limits>
#include <string>

#include "array.h"

namespace wsdan {

// The launches of one call of an operator; an error names it and the shape of its first tensor.
class Launcher {
public:
    Launcher(const char* op, const Array& first, int device, cudaStream_t stream)
        : op_(op), first_(first), device_(device), stream_(stream) {}

    const char* op() const {
        return op_;
    }

    // A figure of the device, such as cudaDevAttrMultiProcessorCount.
    int attribute(cudaDeviceAttr which) const {
        int value = 0;
        check(cudaDeviceGetAttribute(&value, which, device_));
        return value;
    }

    // `blocks` in one row, each of `threads` and with `shared` bytes; nothing where there is none.
    template <typename... Parameters, typename... Arguments>
    void operator()(
        void (*kernel)(Parameters...), int64_t blocks, int threads, int64_t shared,
        const Arguments&... arguments
    ) const {
        if (blocks == 0)
            return;
        STD_TORCH_CHECK(
            blocks <= std::numeric_limits<int32_t>::max(), op_, ": too large, ", blocks,
            " blocks, for ", shape()
        );
        if (shared > kSharedByDefault)
            check(cudaFuncSetAttribute(
                kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)
            ));
        cudaLaunchConfig_t config{};
        config.gridDim = dim3(static_cast<unsigned>(blocks), 1, 1);
        config.blockDim = dim3(static_cast<unsigned>(threads), 1, 1);
        config.dynamicSmemBytes = static_cast<std::size_t>(shared);
        config.stream = stream_;
        check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...));
    }

private:
    static constexpr int64_t kSharedByDefault = 48 << 10;

    std::string shape() const {
        std::string text = "(";
        for (int axis = 0; axis < first_.dim; ++axis)
            text += (axis > 0 ? ", " : "") + std::to_string(first_.size(axis));
        return text + ")";
    }

    void check(cudaError_t error) const {
        if (error == cudaSuccess)
            return;
        cudaGetLastError();  // or the next launch would report it again
        STD_TORCH_CHECK(
            false, op_, ": a kernel did not launch for ", shape(), ": ", cudaGetErrorString(error)
        );
    }

    const char* op_;
    Array first_;
    int device_;
    cudaStream_t stream_;
};

}  // namespace wsdan
