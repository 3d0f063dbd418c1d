// Rows of one element type to another: what is stored (float, double, bfloat16, float16, uint8) to
// what is computed in (float, double) and back.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "../common/bytes.h"
#include "levels.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#endif

namespace wsdan {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

#if defined(__x86_64__) && defined(__GNUC__)
// Eight at a time; the remainder is the caller's. Returns how many were converted.
__attribute__((target("avx,f16c"))) inline int64_t widen_halves(
    const Half* from, float* to, int64_t count
) {
    int64_t i = 0;
    for (; i + 8 <= count; i += 8) {
        const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i));
        _mm256_storeu_ps(to + i, _mm256_cvtph_ps(halves));
    }
    return i;
}

__attribute__((target("avx,f16c"))) inline int64_t narrow_to_halves(
    const float* from, Half* to, int64_t count
) {
    int64_t i = 0;
    for (; i + 8 <= count; i += 8) {
        const __m256 values = _mm256_loadu_ps(from + i);
        const __m128i halves =
            _mm256_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), halves);
    }
    return i;
}
#endif

#if defined(__x86_64__) && defined(__GNUC__)
// A copy that does not pass through the cache: for results too large to be found there again.
__attribute__((target("avx"))) inline void stream_copy(const void* from, void* to, int64_t bytes) {
    const char* source = static_cast<const char*>(from);
    char* target = static_cast<char*>(to);
    int64_t head = static_cast<int64_t>(-reinterpret_cast<uintptr_t>(target) & 31);
    head = head < bytes ? head : bytes;
    std::memcpy(target, source, static_cast<std::size_t>(head));
    int64_t i = head;
    for (; i + 32 <= bytes; i += 32) {
        const __m256i values = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source + i));
        _mm256_stream_si256(reinterpret_cast<__m256i*>(target + i), values);
    }
    std::memcpy(target + i, source + i, static_cast<std::size_t>(bytes - i));
}
#endif

template <typename At, typename From, typename To>
void convert_elements(At /*at*/, const From* from, To* to, int64_t count) {
    int64_t i = 0;
#if defined(__x86_64__) && defined(__GNUC__)
    if constexpr (At::value != Level::baseline) {
        if constexpr (std::is_same_v<From, Half> && std::is_same_v<To, float>) {
            i = widen_halves(from, to, count);
        } else if constexpr (std::is_same_v<From, float> && std::is_same_v<To, Half>) {
            i = narrow_to_halves(from, to, count);
        }
    }
#endif
    for (; i < count; ++i)
        if constexpr (std::is_same_v<To, uint8_t> && !std::is_same_v<From, uint8_t>)
            to[i] = byte_of(from[i]);
        else
            to[i] = static_cast<To>(from[i]);
}

// to[i] = from[i], i < count. A conversion is a function of its own: some callers have ten.
template <typename At, typename From, typename To>
void convert_row(At at, const From* from, To* to, int64_t count) {
    if constexpr (std::is_same_v<From, To>)
        std::memcpy(to, from, static_cast<std::size_t>(count) * sizeof(To));
    else
        run_apart(at, [=](auto /*at*/) { convert_elements(at, from, to, count); });
}

// The same; with `stream` past the cache, where the types are the same. A task that streams ends
// with end_streams.
template <typename At, typename From, typename To>
void store_row(At at, const From* from, To* to, int64_t count, bool stream) {
#if defined(__x86_64__) && defined(__GNUC__)
    if constexpr (std::is_same_v<From, To> && At::value != Level::baseline) {
        if (stream)
            return stream_copy(from, to, count * static_cast<int64_t>(sizeof(To)));
    }
#endif
    convert_row(at, from, to, count);
}

inline void end_streams() {
#if defined(__x86_64__) && defined(__GNUC__)
    _mm_sfence();
#endif
}

// Whether a result of this size is gone from the caches before anybody reads it.
inline bool worth_streaming(int64_t bytes) {
    return bytes > (int64_t{8} << 20);
}

}  // namespace wsdan
