// Images as rows of memory: C planes of pixels, or one plane of C interleaved values a pixel.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>

#include "../../torch/tensors.h"

namespace wsdan {

// One image. A row holds width * pixel values.
template <typename S>
struct ImageRows {
    S* data;
    int64_t planes, plane_stride, height, row_stride, width, pixel;
    S* row(int64_t plane, int64_t y) const {
        return data + plane * plane_stride + y * row_stride;
    }
    int64_t row_size() const {
        return width * pixel;
    }
};

template <typename S>
ImageRows<S> image_rows(const Tensor& t, S* data, int64_t b, bool interleaved) {
    S* image = data + b * t.stride(0);
    if (interleaved)
        return {image, 1, 0, t.size(2), t.stride(2), t.size(3), t.size(1)};
    return {image, t.size(1), t.stride(1), t.size(2), t.stride(2), t.size(3), 1};
}

}  // namespace wsdan
