// From the pooled sums of one image to its output, and from the output's gradient back to theirs:
// S = sign(P) sqrt(|P| + eps), Y = scale * S / max(||S||_2, 1e-12)  (arXiv:1901.09891, eq. 2-4).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "../min_norm.h"
#include "../ordered_sum.h"

namespace wsdan {

struct PoolOptions {
    bool signed_sqrt;
    int64_t norms;  // norms an image has: 0 none, M one for each map, else the groups
    double eps, scale;
};

template <typename T>
T signed_root(T value, T eps) {
    const T root = std::copysign(std::sqrt(std::abs(value) + eps), value);
    return value == T(0) ? T(0) : root;
}

// The norm of `count` values of S; rows of C are summed one by one, then together.
template <typename T>
T norm_of(const T* roots, int64_t count, int64_t row) {
    double total = 0;
    for (int64_t i = 0; i < count; i += row)
        total += ordered_sum<T>(row, [&](int64_t j) { return roots[i + j] * roots[i + j]; });
    return static_cast<T>(std::sqrt(total));
}

// pooled (M,C) -> output (M,C)
template <typename T>
void pool_output(const T* pooled, T* output, int64_t maps, int64_t channels, PoolOptions options) {
    const int64_t count = maps * channels;
    const T eps = static_cast<T>(options.eps), scale = static_cast<T>(options.scale);
    if (options.signed_sqrt)
        for (int64_t i = 0; i < count; ++i)
            output[i] = signed_root(pooled[i], eps);
    else
        std::copy(pooled, pooled + count, output);
    const int64_t spans = std::max<int64_t>(1, options.norms);
    const int64_t span = count / spans;
    for (int64_t s = 0; s < spans; ++s) {
        T* values = output + s * span;
        T norm = 1;
        if (options.norms > 0) {
            norm = norm_of(values, span, channels);
            norm = norm < T(kMinNorm) ? T(kMinNorm) : norm;  // a NaN stays
        }
        for (int64_t i = 0; i < span; ++i)
            values[i] = scale * (values[i] / norm);
    }
}

// grad_output (M,C), pooled (M,C) -> gradient to the pooled values (M,C); 0 through the root where
// P = 0. `divide` is K for the mean.
template <typename T>
void pool_output_backward(
    const T* grad_output, const T* pooled, T* grad, int64_t maps, int64_t channels, T divide,
    PoolOptions options
) {
    const int64_t count = maps * channels;
    const T eps = static_cast<T>(options.eps), scale = static_cast<T>(options.scale);
    const auto root = [&](int64_t i) {
        return options.signed_sqrt ? signed_root(pooled[i], eps) : pooled[i];
    };
    const int64_t spans = std::max<int64_t>(1, options.norms);
    const int64_t span = count / spans;
    for (int64_t s = 0; s < spans; ++s) {
        const int64_t start = s * span;
        T norm = 1, along = 0;  // along: the gradient's part in the direction of S
        if (options.norms > 0) {
            double squares = 0, products = 0;
            for (int64_t i = start; i < start + span; i += channels)
                squares +=
                    ordered_sum<T>(channels, [&](int64_t j) { return root(i + j) * root(i + j); });
            norm = static_cast<T>(std::sqrt(squares));
            const bool usual = norm > T(kMinNorm);
            norm = norm < T(kMinNorm) ? T(kMinNorm) : norm;
            for (int64_t i = start; usual && i < start + span; i += channels)
                products += ordered_sum<T>(channels, [&](int64_t j) {
                    return scale * grad_output[i + j] * (root(i + j) / norm);
                });
            along = static_cast<T>(products);
        }
        for (int64_t i = start; i < start + span; ++i) {
            T value = scale * grad_output[i];
            if (options.norms > 0)
                value = (value - root(i) / norm * along) / norm;
            if (options.signed_sqrt) {
                const T slope = T(0.5) / std::sqrt(std::abs(pooled[i]) + eps);
                value = pooled[i] == T(0) ? T(0) : value * slope;
            }
            grad[i] = value / divide;
        }
    }
}

}  // namespace wsdan
