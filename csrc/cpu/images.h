// Images as rows of memory: C planes of pixels, or one plane of C interleaved values a pixel.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>

#include "tensors.h"

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

inline bool is_planar(const Tensor& t) {
    return t.stride(3) == 1 || t.size(3) == 1;
}

inline bool is_interleaved(const Tensor& t) {
    return (t.stride(1) == 1 || t.size(1) == 1) && (t.stride(3) == t.size(1) || t.size(3) == 1);
}

// images (B,C,H,W), or a copy, in the layout of `result`, which the kernel fills.
inline Tensor laid_out_as(const Tensor& images, const Tensor& result) {
    const bool as_is = is_planar(result) ? is_planar(images) : is_interleaved(images);
    return as_is ? images : torch::stable::contiguous(images);
}

template <typename S>
ImageRows<S> image_rows(const Tensor& t, S* data, int64_t b, bool interleaved) {
    S* image = data + b * t.stride(0);
    if (interleaved)
        return {image, 1, 0, t.size(2), t.stride(2), t.size(3), t.size(1)};
    return {image, t.size(1), t.stride(1), t.size(2), t.stride(2), t.size(3), 1};
}

// A box moved inside its image and at least one pixel wide: x1 y1 x2 y2, half-open.
struct Box {
    int64_t left, top, right, bottom;
    int64_t width() const {
        return right - left;
    }
    int64_t height() const {
        return bottom - top;
    }
};

inline Tensor checked_boxes(const Tensor& boxes, const Tensor& images) {
    STD_TORCH_CHECK(
        boxes.scalar_type() == ScalarType::Int && boxes.dim() == 2 && boxes.size(1) == 4 &&
            boxes.size(0) == images.size(0),
        "boxes must be (B,4) int32, and B that of the images"
    );
    return torch::stable::contiguous(boxes);
}

inline Box box_inside(const int32_t* box, int64_t height, int64_t width) {
    const int64_t left = std::clamp<int64_t>(box[0], 0, width - 1);
    const int64_t top = std::clamp<int64_t>(box[1], 0, height - 1);
    return {
        left, top, std::max(std::min<int64_t>(box[2], width), left + 1),
        std::max(std::min<int64_t>(box[3], height), top + 1)
    };
}

}  // namespace wsdan
