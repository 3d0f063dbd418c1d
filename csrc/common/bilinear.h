// Neighbours, weights and blending of bilinear resampling along one axis.
//
// Each rounding is where torch's interpolate has it on a CPU with fused multiply-add, and is
// written out as std::fma, so that every machine and every compiler gives the same bits.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "macros.h"

namespace wsdan {

// a / b for whole numbers a >= 0 and b > 0 of up to 24 bits, given 1 / b to within an ulp or two:
// rounded as a division is.
WSDAN_HOST_DEVICE float refined_quotient(float a, float b, float inverse) {
    inverse = std::fma(std::fma(-b, inverse, 1.0f), inverse, inverse);
    float quotient = a * inverse;
    quotient = std::fma(std::fma(-b, quotient, a), inverse, quotient);
    return std::fma(std::fma(-b, quotient, a), inverse, quotient);
}

// a / b, whole numbers as above. A device's own division calls a function for numbers that cannot
// occur here, and registers are spilled around the call.
template <typename T>
WSDAN_HOST_DEVICE T quotient(T a, T b) {
#if defined(__CUDA_ARCH__)
    if constexpr (sizeof(T) == sizeof(float)) {
        float inverse;
        asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(b));
        return refined_quotient(a, b, inverse);
    }
#endif
    return a / b;
}

// out = blend(in[lower], in[upper], weight)
template <typename T, typename Index = int64_t>
struct Tap {
    Index lower;
    Index upper;
    T weight;
};

// An axis of `in` elements that becomes one of `out`. The source position of output element i is
// i (in-1)/(out-1) with align_corners, else max((i + 1/2) in/out - 1/2, 0).
template <typename T, typename Index = int64_t>
struct Axis {
    Index in, out;
    bool align_corners;
    T step, per_step;

    WSDAN_HOST_DEVICE Axis(Index in, Index out, bool align_corners)
        : in(in), out(out), align_corners(align_corners), step(0), per_step(0) {
        const T from = static_cast<T>(align_corners ? in - 1 : in);
        const T to = static_cast<T>(align_corners ? out - 1 : out);
        if (to > 0)
            step = quotient(from, to);
        if (from > 0)
            per_step = quotient(to, from);
    }

    WSDAN_HOST_DEVICE Tap<T, Index> tap(Index i) const {
        T source = step * static_cast<T>(i);
        if (!align_corners) {
            source = std::fma(step, static_cast<T>(i) + T(0.5), T(-0.5));
            source = source < T(0) ? T(0) : source;
        }
        Index lower = static_cast<Index>(source);
        lower = lower < in - 1 ? lower : in - 1;
        T weight = source - static_cast<T>(lower);
        weight = weight < T(0) ? T(0) : (weight > T(1) ? T(1) : weight);
        return {lower, lower < in - 1 ? lower + 1 : lower, weight};
    }

    // The tap for a blend. A neighbour of weight 0 that is not finite spreads; where the axis keeps
    // its length there is none, as in torch.
    WSDAN_HOST_DEVICE Tap<T, Index> blending_tap(Index i) const {
        const Tap<T, Index> tap = this->tap(i);
        return {tap.lower, in == out ? tap.lower : tap.upper, tap.weight};
    }

    // The smallest i whose lower neighbour is `least` or more; `out` where there is none.
    WSDAN_HOST_DEVICE Index first_reaching(Index least) const {
        if (least <= 0)
            return 0;
        if (least >= in)
            return out;
        // A guess by the inverse; the walk corrects it.
        const T guess = static_cast<T>(least) * per_step;
        Index i = guess < static_cast<T>(out) ? static_cast<Index>(guess) : out;
        while (i > 0 && tap(i - 1).lower >= least)
            --i;
        while (i < out && tap(i).lower < least)
            ++i;
        return i;
    }
};

// (1 - weight) * lower + weight * upper
template <typename T>
WSDAN_HOST_DEVICE T blend(T lower, T upper, T weight) {
    return std::fma(lower, T(1) - weight, upper * weight);
}

// The share of neighbour `at` in what a tap blends.
template <typename T, typename Index>
WSDAN_HOST_DEVICE T share_of(const Tap<T, Index>& tap, Index at) {
    return (tap.lower == at ? T(1) - tap.weight : T(0)) + (tap.upper == at ? tap.weight : T(0));
}

// What no blend of two values exceeds: rounding may take it above the larger of them.
template <typename T>
WSDAN_HOST_DEVICE T blend_bound(T lower, T upper) {
    constexpr T slack = 8 * std::numeric_limits<T>::epsilon();
    const T larger = lower < upper ? upper : lower;
    return larger + std::abs(larger) * slack;
}

}  // namespace wsdan
