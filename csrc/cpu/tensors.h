// What the kernels need of a tensor: its data by type, and a choice of types by its dtype.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <string>
#include <type_traits>

#include "../common/boxes.h"
#include "convert.h"

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

// body(stored, computed) with values of the dtype's type and of the type it is computed in.
template <typename Body>
void with_types(ScalarType dtype, const char* op, const Body& body) {
    switch (dtype) {
        case ScalarType::Float:
            return body(float{}, float{});
        case ScalarType::Double:
            return body(double{}, double{});
        case ScalarType::BFloat16:
            return body(BFloat16{}, float{});
        case ScalarType::Half:
            return body(Half{}, float{});
        default:
            STD_TORCH_CHECK(false, op, ": takes float32, float64, bfloat16 and float16 only");
    }
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

// body(index) with a value of an integer dtype's type.
template <typename Body>
void with_integer(ScalarType dtype, const Body& body) {
    switch (dtype) {
        case ScalarType::Byte:
            return body(uint8_t{});
        case ScalarType::Short:
            return body(int16_t{});
        case ScalarType::Int:
            return body(int32_t{});
        default:
            return body(int64_t{});
    }
}

inline void store_index(Tensor& tensor, int64_t start, const int32_t* from, int64_t count) {
    with_integer(tensor.scalar_type(), [&](auto type) {
        auto* to = data_of<decltype(type)>(tensor) + start;
        for (int64_t i = 0; i < count; ++i)
            to[i] = static_cast<decltype(type)>(from[i]);
    });
}

inline void load_index(const Tensor& tensor, int64_t start, int32_t* to, int64_t count) {
    with_integer(tensor.scalar_type(), [&](auto type) {
        const auto* from = data_of<const decltype(type)>(tensor) + start;
        for (int64_t i = 0; i < count; ++i)
            to[i] = static_cast<int32_t>(from[i]);
    });
}

}  // namespace wsdan
