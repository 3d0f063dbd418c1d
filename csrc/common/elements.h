// How an element is stored and what it is computed in, without a header of CUDA or torch: the
// kernels of csrc/cuda are compiled by a plain C++ compiler too (tests/gpu/emulator).
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "bytes.h"
#include "macros.h"

namespace wsdan {

struct bfloat16 {
    uint16_t bits;
};

struct float16 {
    uint16_t bits;
};

// The same bits as another type. nvcc 13.0 aborts at std::bit_cast.
template <typename To, typename From>
WSDAN_HOST_DEVICE To bits_as(const From& from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof(to));
    return to;
}

// What elements of type S are computed in.
template <typename S>
using Computed = std::conditional_t<std::is_same_v<S, double>, double, float>;

template <typename S>
WSDAN_HOST_DEVICE Computed<S> widened(S value) {
    if constexpr (std::is_same_v<S, bfloat16>) {
        return bits_as<float>(static_cast<uint32_t>(value.bits) << 16);
    } else if constexpr (std::is_same_v<S, float16>) {
#if defined(__CUDA_ARCH__)
        float wide;
        asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
        return wide;
#elif !defined(__CUDACC__)
        return static_cast<float>(bits_as<_Float16>(value.bits));
#else
        return 0;  // nvcc's host pass: never called
#endif
    } else {
        return static_cast<Computed<S>>(value);
    }
}

// To nearest, ties to even.
template <typename S>
WSDAN_HOST_DEVICE S narrowed(Computed<S> value) {
    if constexpr (std::is_same_v<S, bfloat16>) {
#if defined(__CUDA_ARCH__)
        S narrow;
        asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(narrow.bits) : "f"(value));
        return narrow;
#else
        const uint32_t bits = bits_as<uint32_t>(value);
        if (value != value)
            return {static_cast<uint16_t>(bits >> 16 | 0x40)};
        return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
#endif
    } else if constexpr (std::is_same_v<S, float16>) {
#if defined(__CUDA_ARCH__)
        S narrow;
        asm("cvt.rn.f16.f32 %0, %1;" : "=h"(narrow.bits) : "f"(value));
        return narrow;
#elif !defined(__CUDACC__)
        return {bits_as<uint16_t>(static_cast<_Float16>(value))};
#else
        return {};  // nvcc's host pass: never called
#endif
    } else if constexpr (std::is_same_v<S, uint8_t>) {
        return byte_of(value);
    } else {
        return value;
    }
}

}  // namespace wsdan
