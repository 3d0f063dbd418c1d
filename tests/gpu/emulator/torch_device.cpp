// What libtorch is asked about the GPU, as of a machine with one. Hidden in the library, so that
// torch itself is not affected.
#include <cstdint>

extern "C" {

int32_t aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
    *stream = nullptr;
    return 0;
}

int32_t aoti_torch_create_device_guard(int32_t /*index*/, void** guard) {
    *guard = nullptr;
    return 0;
}

int32_t aoti_torch_delete_device_guard(void* /*guard*/) {
    return 0;
}

int32_t aoti_torch_device_guard_set_index(void* /*guard*/, int32_t /*index*/) {
    return 0;
}
}
