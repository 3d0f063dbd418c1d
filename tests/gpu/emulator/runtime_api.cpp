// The CUDA runtime's host interface: what a launch may ask for, and how it fails.
#include <cxxabi.h>
#include <dlfcn.h>

#include <cstdlib>
#include <map>

#include "scheduler.h"

namespace emulator {

extern int32_t current_device;
void* stream_of(int32_t device);

namespace {

constexpr int shared_without_asking = 48 * 1024;
constexpr int most_threads = 1024;

std::map<const void*, int> shared_limits;
std::string last_text;  // of the last error
cudaError_t last_error = cudaSuccess;
bool fail_all = false;

cudaError_t refuse(cudaError_t error, const std::string& what) {
    last_text = what;
    return last_error = error;
}

std::string name_of(const void* kernel) {
    Dl_info info{};
    if (dladdr(kernel, &info) == 0 || info.dli_sname == nullptr)
        return "a kernel";
    char* plain = abi::__cxa_demangle(info.dli_sname, nullptr, nullptr, nullptr);
    std::string name = plain ? plain : info.dli_sname;
    std::free(plain);
    name = name.substr(0, name.find('('));
    return name.substr(name.rfind("void ", 0) == 0 ? 5 : 0);  // a template's type comes first
}

int shared_limit(const void* kernel) {
    const auto found = shared_limits.find(kernel);
    return found == shared_limits.end() ? shared_without_asking : found->second;
}

// Why a GPU would not start this, or an empty text.
std::string misfit(const cudaLaunchConfig_t& config) {
    if (fail_all)
        return "a planted failure";
    if (config.stream != stream_of(current_device))
        return "the stream is not of the current device, " + std::to_string(current_device);
    const dim3 &grid = config.gridDim, &block = config.blockDim;
    if (grid.x == 0 || grid.y == 0 || grid.z == 0)
        return "the grid is empty";
    if (grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
        return "the grid is too large: " + text({grid.x, grid.y, grid.z});
    const uint64_t threads = uint64_t{block.x} * block.y * block.z;
    if (threads == 0 || threads > most_threads || block.z > 64)
        return "a block has 1 to 1024 threads, not " + text({block.x, block.y, block.z});
    return "";
}

}  // namespace

cudaError_t set_attribute(const void* kernel, cudaFuncAttribute, int value) {
    if (value < 0 || value > static_cast<int>(shared_capacity))
        return refuse(cudaErrorInvalidValue, "a block has no " + std::to_string(value) + " bytes");
    shared_limits[kernel] = value;
    return cudaSuccess;
}

cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel, const Call& call) {
    const std::string name = name_of(kernel), reason = misfit(config);
    if (!reason.empty())
        return refuse(cudaErrorInvalidConfiguration, name + ": " + reason);
    if (config.dynamicSmemBytes > static_cast<size_t>(shared_limit(kernel)))
        return refuse(
            cudaErrorInvalidValue, name + ": " + std::to_string(config.dynamicSmemBytes) +
                                       " bytes of shared memory, but the kernel's limit is " +
                                       std::to_string(shared_limit(kernel))
        );
    const std::string error = run_launch(name, config, call);
    return error.empty() ? cudaSuccess : refuse(cudaErrorLaunchFailure, error);
}

}  // namespace emulator

const char* cudaGetErrorString(cudaError_t error) {
    return error == cudaSuccess ? "no error" : emulator::last_text.c_str();
}

const char* cudaGetErrorName(cudaError_t error) {
    switch (error) {
        case cudaSuccess:
            return "cudaSuccess";
        case cudaErrorInvalidValue:
            return "cudaErrorInvalidValue";
        case cudaErrorInvalidConfiguration:
            return "cudaErrorInvalidConfiguration";
        case cudaErrorLaunchFailure:
            return "cudaErrorLaunchFailure";
    }
    return "unknown error";
}

cudaError_t cudaPeekAtLastError() {
    return emulator::last_error;
}

cudaError_t cudaGetLastError() {
    return std::exchange(emulator::last_error, cudaSuccess);
}

cudaError_t cudaGetDevice(int* device) {
    *device = emulator::current_device;
    return cudaSuccess;
}

// A small GPU: loops over more blocks than it holds at once are run.
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int /*device*/) {
    static const std::map<cudaDeviceAttr, int> values = {
        {cudaDevAttrMaxThreadsPerBlock, emulator::most_threads},
        {cudaDevAttrMaxSharedMemoryPerBlock, emulator::shared_without_asking},
        {cudaDevAttrMultiProcessorCount, 2},
        {cudaDevAttrMaxThreadsPerMultiProcessor, 2048},
        {cudaDevAttrComputeCapabilityMajor, 9},
        {cudaDevAttrComputeCapabilityMinor, 0},
        {cudaDevAttrMaxSharedMemoryPerMultiprocessor, 233472},
        {cudaDevAttrMaxSharedMemoryPerBlockOptin, static_cast<int>(emulator::shared_capacity)},
    };
    const auto found = values.find(attribute);
    if (found == values.end())
        return emulator::refuse(cudaErrorInvalidValue, "an attribute that the emulator lacks");
    *value = found->second;
    return cudaSuccess;
}

// Whether every launch fails from now on.
extern "C" __attribute__((visibility("default"))) void emulator_fail(int all) {
    emulator::fail_all = all != 0;
}
