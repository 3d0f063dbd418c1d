// What libtorch is asked about GPUs, as of a machine with several. Hidden in the library, so that
// torch itself is not affected.
#include <cstdint>

namespace emulator {

int32_t current_device = 0;

// A stream of a device; device 0 has the default one.
void* stream_of(int32_t device) {
    return reinterpret_cast<void*>(static_cast<intptr_t>(device) << 8);
}

}  // namespace emulator

namespace {

int32_t device_of_tensors = 0;

}  // namespace

extern "C" {

int32_t aoti_torch_get_device_index(void* /*tensor*/, int32_t* index) {
    *index = device_of_tensors;
    return 0;
}

int32_t aoti_torch_get_current_cuda_stream(int32_t device, void** stream) {
    *stream = emulator::stream_of(device);
    return 0;
}

int32_t aoti_torch_create_device_guard(int32_t index, void** guard) {
    *guard = new int32_t(emulator::current_device);
    emulator::current_device = index;
    return 0;
}

int32_t aoti_torch_delete_device_guard(void* guard) {
    auto* before = static_cast<int32_t*>(guard);
    emulator::current_device = *before;
    delete before;
    return 0;
}

int32_t aoti_torch_device_guard_set_index(void* /*guard*/, int32_t index) {
    emulator::current_device = index;
    return 0;
}

// All tensors are on this device from now on; 0 is the current one.
__attribute__((visibility("default"))) void emulator_tensors_on(int32_t device) {
    device_of_tensors = device;
}

__attribute__((visibility("default"))) int32_t emulator_current_device() {
    return emulator::current_device;
}
}
