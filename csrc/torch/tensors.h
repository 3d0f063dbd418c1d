// What the launchers of both backends need of a tensor: its data by type, its layout, its rule.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <string>
#include <type_traits>

#include "../common/boxes.h"

namespace wsdan {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <typename T>
T* data_of(const Tensor& tensor) {
    if constexpr (std::is_const_v<T>)
        return static_cast<T*>(tensor.const_data_ptr());
    else
        return static_cast<T*>(tensor.mutable_data_ptr());
}

inline int64_t size_of(const Tensor& tensor) {
    return tensor.numel() * static_cast<int64_t>(tensor.element_size());
}

// body(computed) with a value of the type that a dtype is computed in.
template <typename Body>
void with_computed_type(ScalarType dtype, const Body& body) {
    if (dtype == ScalarType::Double)
        body(double{});
    else
        body(float{});
}

template <typename T>
Tensor dense_as(const Tensor& tensor) {
    const ScalarType type = std::is_same_v<T, double> ? ScalarType::Double : ScalarType::Float;
    return torch::stable::contiguous(torch::stable::to(tensor, type));
}

inline BoxRule box_rule(const std::string& name) {
    return name == "paper" ? BoxRule::paper : BoxRule::guyuc;
}

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

inline Tensor checked_boxes(const Tensor& boxes, const Tensor& images) {
    STD_TORCH_CHECK(
        boxes.scalar_type() == ScalarType::Int && boxes.dim() == 2 && boxes.size(1) == 4 &&
            boxes.size(0) == images.size(0),
        "boxes must be (B,4) int32, and B that of the images"
    );
    return torch::stable::contiguous(boxes);
}

inline void check_batches(
    const Tensor& images, const Tensor& maps, const Tensor& thresholds, const char* op
) {
    STD_TORCH_CHECK(
        maps.size(0) == images.size(0) && thresholds.size(0) == images.size(0), op,
        ": images, maps and thresholds differ in B"
    );
}

}  // namespace wsdan
