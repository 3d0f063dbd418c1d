// A choice of the kernels' types by an array's, and of how images are read.
#pragma once

#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <limits>

#include "../../common/elements.h"
#include "../../common/words.h"
#include "../images.cuh"
#include "array.h"

namespace wsdan {

// body(stored) with a value of the array's type: gradients.
template <typename Body>
void with_gradient_type(Type type, const char* op, const Body& body) {
    switch (type) {
        case Type::float32:
            return body(float{});
        case Type::bfloat16:
            return body(bfloat16{});
        case Type::float16:
            return body(float16{});
        default:
            STD_TORCH_CHECK(false, op, ": no kernel for this dtype");
    }
}

// The same with uint8: images.
template <typename Body>
void with_image_type(Type type, const char* op, const Body& body) {
    if (type == Type::uint8)
        body(uint8_t{});
    else
        with_gradient_type(type, op, body);
}

// The same with float64: maps.
template <typename Body>
void with_map_type(Type type, const char* op, const Body& body) {
    if (type == Type::float64)
        body(double{});
    else
        with_gradient_type(type, op, body);
}

// body(computed) with a value of the type that maps are computed in.
template <typename Body>
void with_computed_type(Type type, const Body& body) {
    if (type == Type::float64)
        body(double{});
    else
        body(float{});
}

// The array's elements as S: `interleaved` says in which of both layouts.
template <typename S>
Images<S> images_of(const Array& t, bool interleaved) {
    constexpr int64_t most = std::numeric_limits<int32_t>::max();
    const int64_t planes = interleaved ? 1 : t.size(1), pixel = interleaved ? t.size(1) : 1;
    STD_TORCH_CHECK(
        t.size(1) * t.size(3) <= most && t.size(2) <= most && t.size(2) * t.size(3) * pixel <= most,
        "an image of more than 2^31 elements"
    );
    return {
        data_of<S>(t),
        t.stride(0),
        interleaved ? 0 : t.stride(1),
        t.stride(2),
        static_cast<int>(planes),
        static_cast<int>(t.size(2)),
        static_cast<int>(t.size(3)),
        static_cast<int>(pixel)
    };
}

// Whether a thread may take kChunk<S> neighbours of each row at once.
template <typename S>
bool in_chunks(const Images<S>& images) {
    constexpr int64_t count = kChunk<S>;
    return images.row_size() % count == 0 && images.image_stride % count == 0 &&
           images.plane_stride % count == 0 && images.row_stride % count == 0 &&
           reinterpret_cast<std::uintptr_t>(images.data) % (count * sizeof(S)) == 0;
}

// body(count) with a constant: kChunk<S> where `chunks` says so, else 1.
template <typename S, typename Body>
void with_count(bool chunks, const Body& body) {
    if (chunks)
        body(std::integral_constant<int, kChunk<S>>{});
    else
        body(std::integral_constant<int, 1>{});
}

inline int blocks_for(const Shares& shares, int threads) {
    return static_cast<int>((shares.size() + threads - 1) / threads);
}

// How `planes` planes like those of `result` are shared out, `count` elements of a row a thread. A
// thread goes down so many rows that the GPU is full first and strips have few starts then.
template <typename S>
Shares shares_of(const Images<S>& result, int64_t planes, int count, int multiprocessors) {
    constexpr int64_t least = 4, most = 16, resident = 2048;
    const int64_t row_shares = planes * result.height * (result.row_size() / count);
    const int64_t rows = row_shares / (multiprocessors * resident);
    const int64_t strip = rows < least ? least : rows > most ? most : rows;
    return {result.row_size(), result.height, static_cast<int>(strip), count};
}

}  // namespace wsdan
