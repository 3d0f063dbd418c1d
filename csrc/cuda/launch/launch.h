// Launches a kernel on the device and the current stream of a tensor, and says what failed.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/shim_utils.h>

#include <cstdint>
#include <limits>
#include <string>

namespace wsdan {

using torch::stable::Tensor;

inline std::string shape_of(const Tensor& tensor) {
    std::string text = "(";
    for (int64_t axis = 0; axis < tensor.dim(); ++axis)
        text += (axis > 0 ? ", " : "") + std::to_string(tensor.size(axis));
    return text + ")";
}

// The launches of one call of an operator; `tensor`, its first one, says where.
class Launcher {
public:
    Launcher(const char* op, const Tensor& tensor)
        : op_(op), tensor_(tensor), guard_(tensor.get_device_index()) {
        void* stream = nullptr;
        TORCH_ERROR_CODE_CHECK(
            aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream)
        );
        stream_ = static_cast<cudaStream_t>(stream);
    }

    // A figure of the device, such as cudaDevAttrMultiProcessorCount.
    int attribute(cudaDeviceAttr which) const {
        int value = 0;
        check(cudaDeviceGetAttribute(&value, which, tensor_.get_device_index()));
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
            " blocks, for ", shape_of(tensor_)
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

    void check(cudaError_t error) const {
        if (error == cudaSuccess)
            return;
        cudaGetLastError();  // or the next launch would report it again
        STD_TORCH_CHECK(
            false, op_, ": a kernel did not launch for ", shape_of(tensor_), ": ",
            cudaGetErrorString(error)
        );
    }

    const char* op_;
    const Tensor& tensor_;
    torch::stable::accelerator::DeviceGuard guard_;
    cudaStream_t stream_ = nullptr;
};

}  // namespace wsdan
