// Neighbours, weights and blending of bilinear resampling along one axis.
//
// Each rounding is where torch's interpolate has it on a CPU with fused multiply-add, and is
// written out as std::fma, so that every machine and every compiler gives the same bits.
#pragma once

#include <cmath>
#include <cstdint>

#include "macros.h"

namespace wsdan {

// out = blend(in[lower], in[upper], weight)
template <typename T>
struct Tap {
    int64_t lower;
    int64_t upper;
    T weight;
};

// Source position of output element `i` when `in` elements become `out`:
// i (in-1)/(out-1) with align_corners, else max((i + 1/2) in/out - 1/2, 0).
template <typename T>
WSDAN_HOST_DEVICE Tap<T> bilinear_tap(int64_t i, int64_t in, int64_t out, bool align_corners) {
    T source = 0;
    if (align_corners) {
        const T step = out > 1 ? static_cast<T>(in - 1) / static_cast<T>(out - 1) : T(0);
        source = step * static_cast<T>(i);
    } else {
        const T step = static_cast<T>(in) / static_cast<T>(out);
        source = std::fma(step, static_cast<T>(i) + T(0.5), T(-0.5));
        source = source < T(0) ? T(0) : source;
    }
    int64_t lower = static_cast<int64_t>(source);
    lower = lower < in - 1 ? lower : in - 1;
    T weight = source - static_cast<T>(lower);
    weight = weight < T(0) ? T(0) : (weight > T(1) ? T(1) : weight);
    const int64_t upper = lower < in - 1 ? lower + 1 : lower;
    return {lower, upper, weight};
}

// (1 - weight) * lower + weight * upper
template <typename T>
WSDAN_HOST_DEVICE T blend(T lower, T upper, T weight) {
    return std::fma(lower, T(1) - weight, upper * weight);
}

}  // namespace wsdan
