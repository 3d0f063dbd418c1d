// A choice of types by a tensor's dtype.
#pragma once

#include <torch/headeronly/util/Exception.h>

#include <cstdint>

#include "../torch/tensors.h"
#include "convert.h"

namespace wsdan {

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
            STD_TORCH_CHECK(false, op, ": no kernel for this dtype");
    }
}

// The same with uint8: images.
template <typename Body>
void with_image_types(ScalarType dtype, const char* op, const Body& body) {
    if (dtype == ScalarType::Byte)
        body(uint8_t{}, float{});
    else
        with_types(dtype, op, body);
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

// Whether all of an index (any shape, dense) lie in 0..size-1.
inline bool index_within(const Tensor& tensor, int64_t size) {
    bool within = true;
    with_integer(tensor.scalar_type(), [&](auto type) {
        const auto* from = data_of<const decltype(type)>(tensor);
        const int64_t count = tensor.numel();
        for (int64_t i = 0; i < count; ++i)
            within &= from[i] >= 0 && static_cast<int64_t>(from[i]) < size;
    });
    return within;
}

inline void load_index(const Tensor& tensor, int64_t start, int32_t* to, int64_t count) {
    with_integer(tensor.scalar_type(), [&](auto type) {
        const auto* from = data_of<const decltype(type)>(tensor) + start;
        for (int64_t i = 0; i < count; ++i)
            to[i] = static_cast<int32_t>(from[i]);
    });
}

}  // namespace wsdan
