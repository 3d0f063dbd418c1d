// A tensor as the launchers see it. They include none of torch's headers of tensors: nvcc would
// read those once for the host and once for each architecture, which takes longer than the kernels
// do.
#pragma once

#include <cstdint>

namespace wsdan {

enum class Type { uint8, float16, bfloat16, float32, float64 };

struct Array {
    void* data;
    Type type;
    int dim;
    int64_t sizes[4], strides[4];  // strides in elements

    int64_t size(int axis) const {
        return sizes[axis];
    }
    int64_t stride(int axis) const {
        return strides[axis];
    }
};

template <typename T>
T* data_of(const Array& array) {
    return static_cast<T*>(array.data);
}

}  // namespace wsdan
