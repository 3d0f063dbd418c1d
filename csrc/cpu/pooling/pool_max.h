// The maximum over the positions, and its gradient; no product is stored.
//
// A stretch of positions is first reduced to its maximum in registers, as the sums are in
// product.h; only the stretch that held the largest is looked through again for the position.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "pool_layout.h"

namespace wsdan {

template <typename T>
using IndexOf = std::conditional_t<sizeof(T) == 8, int64_t, int32_t>;

constexpr int64_t kStretch = 64;

// The maximum of x[i][k] * panel[k][j] and the stretch it first occurs in, `rows` by two vectors.
template <typename T, int lanes, int rows>
void max_block(
    const T* x, int64_t x_row, const T* panel, int64_t depth, T* best_out, IndexOf<T>* stretch_out
) {
    using V = typename VectorOf<T, lanes>::type;
    using I = typename VectorOf<IndexOf<T>, lanes>::type;
    V best[rows][2];
    I stretch[rows][2] = {};
    for (auto& row : best)
        row[0] = row[1] = V{} - std::numeric_limits<T>::infinity();
    for (int64_t k = 0; k < depth; k += kStretch) {
        V top[rows][2];
        for (auto& row : top)
            row[0] = row[1] = V{} - std::numeric_limits<T>::infinity();
        const int64_t end = k + kStretch < depth ? k + kStretch : depth;
        for (int64_t r = k; r < end; ++r) {
            V across[2];
            for (int v = 0; v < 2; ++v)
                across[v] = *reinterpret_cast<const V*>(panel + (2 * r + v) * lanes);
            for (int n = 0; n < rows; ++n) {
                const T factor = x[n * x_row + r];
                for (int v = 0; v < 2; ++v) {
                    const V product = factor * across[v];
                    top[n][v] = product > top[n][v] ? product : top[n][v];
                }
            }
        }
        for (int n = 0; n < rows; ++n)
            for (int v = 0; v < 2; ++v) {
                const I larger = top[n][v] > best[n][v];
                const I here = I{} + static_cast<IndexOf<T>>(k);
                best[n][v] = larger ? top[n][v] : best[n][v];
                stretch[n][v] = larger ? here : stretch[n][v];
            }
    }
    for (int n = 0; n < rows; ++n)
        for (int v = 0; v < 2; ++v) {
            *reinterpret_cast<V*>(best_out + (2 * n + v) * lanes) = best[n][v];
            *reinterpret_cast<I*>(stretch_out + (2 * n + v) * lanes) = stretch[n][v];
        }
}

// The `count` <= rows rows of x; a remainder goes in blocks of powers of two.
template <typename T, int lanes, int rows>
void max_rows(
    int64_t count, const T* x, int64_t x_row, const T* panel, int64_t depth, T* best,
    IndexOf<T>* stretch
) {
    if (count >= rows) {
        max_block<T, lanes, rows>(x, x_row, panel, depth, best, stretch);
        count -= rows;
        x += rows * x_row;
        best += rows * 2 * lanes;
        stretch += rows * 2 * lanes;
    }
    if constexpr (rows > 1) {
        constexpr int half = rows > 8 ? 8 : rows > 4 ? 4 : rows > 2 ? 2 : 1;
        if (count > 0)
            max_rows<T, lanes, half>(count, x, x_row, panel, depth, best, stretch);
    }
}

// `count` rows of x against one panel.
template <typename At, typename T>
void max_panel(
    At at, int64_t count, const T* x, int64_t x_row, const T* panel, int64_t depth, T* best,
    IndexOf<T>* stretch
) {
    run_apart(at, [&](auto /*at*/) {
        max_rows<T, At::template lanes<T>, At::rows>(count, x, x_row, panel, depth, best, stretch);
    });
}

// The lowest position of the stretch where the product is `best`.
template <typename T, int lanes>
int64_t first_position(const T* x, const T* map, int64_t stretch, int64_t depth, T best) {
    using V = typename VectorOf<T, lanes>::type;
    using I = typename VectorOf<IndexOf<T>, lanes>::type;
    const int64_t end = stretch + kStretch < depth ? stretch + kStretch : depth;
    I here{}, first = I{} + std::numeric_limits<IndexOf<T>>::max();
    for (int j = 0; j < lanes; ++j)
        here[j] = static_cast<IndexOf<T>>(stretch + j);
    int64_t k = stretch;
    for (; k + lanes <= end; k += lanes, here += lanes) {
        const V product = *reinterpret_cast<const V*>(x + k) * *reinterpret_cast<const V*>(map + k);
        const I found = product == best ? here : first;
        first = found < first ? found : first;
    }
    IndexOf<T> lowest = std::numeric_limits<IndexOf<T>>::max();
    for (int j = 0; j < lanes; ++j)
        lowest = first[j] < lowest ? first[j] : lowest;
    for (; k < end; ++k)
        if (k < lowest && x[k] * map[k] == best)
            lowest = static_cast<IndexOf<T>>(k);
    return lowest;
}

// As torch's max: a NaN is larger than everything, the first one wins.
template <typename T>
IndexOf<T> exact_position(const T* x, const T* map, int64_t depth) {
    IndexOf<T> position = 0;
    T best = x[0] * map[0];
    for (int64_t k = 1; k < depth && !std::isnan(best); ++k)
        if (!(x[k] * map[k] <= best)) {
            best = x[k] * map[k];
            position = static_cast<IndexOf<T>>(k);
        }
    return position;
}

template <typename T>
bool all_finite(const T* values, int64_t count) {
    int bad = 0;
    for (int64_t i = 0; i < count; ++i)
        bad |= !(std::abs(values[i]) <= std::numeric_limits<T>::max());
    return bad == 0;
}

// Channels first..first+count of one image as rows of K: a view where they lie so, else a copy.
template <typename At, typename S, typename T>
const T* channel_rows(
    At at, const Rows<const S>& x, bool channels_last, int64_t first, int64_t count, T* copy,
    int64_t& row
) {
    if (!channels_last) {
        if constexpr (std::is_same_v<S, T>) {
            row = x.stride;
            return x.row(first);
        }
        row = x.columns;
        for (int64_t i = 0; i < count; ++i)
            convert_row(at, x.row(first + i), copy + i * x.columns, x.columns);
        return copy;
    }
    row = x.rows;
    for (int64_t k = 0; k < x.rows; ++k) {
        const S* source = x.row(k) + first;
        for (int64_t i = 0; i < count; ++i)
            copy[i * x.rows + k] = static_cast<T>(source[i]);
    }
    return copy;
}

constexpr int64_t kMaxTile = 48;  // channels handled at a time

// pooled[m][c] = max over k, position[m][c] its lowest k, for channels begin..end of one image.
// maps (M x K) dense; panels their transpose.
template <typename At, typename S, typename T>
void max_forward(
    At at, const Rows<const S>& x, bool channels_last, int64_t begin, int64_t end, const T* maps,
    const T* panels, int64_t count_maps, T* pooled, int32_t* position, int64_t channels
) {
    constexpr int64_t width = kPanel<At, T>;
    const int64_t depth = channels_last ? x.rows : x.columns;
    const Scratch<T> copy(kMaxTile * depth);
    alignas(64) T best[At::rows * width];
    alignas(64) IndexOf<T> stretch[At::rows * width];
    const bool maps_finite = all_finite(maps, count_maps * depth);
    for (int64_t first = begin; first < end; first += kMaxTile) {
        const int64_t tile = std::min(kMaxTile, end - first);
        int64_t row = 0;
        const T* rows = channel_rows(at, x, channels_last, first, tile, copy.data(), row);
        for (int64_t i = 0; i < tile; i += At::rows) {
            const int64_t count = std::min<int64_t>(At::rows, tile - i);
            const T* group = rows + i * row;
            bool finite = maps_finite;
            for (int64_t n = 0; n < count; ++n)
                finite = finite && all_finite(group + n * row, depth);
            for (int64_t p = 0; p * width < count_maps; ++p) {
                if (finite)
                    max_panel(
                        at, count, group, row, panels + p * depth * width, depth, best, stretch
                    );
                const int64_t in_panel = std::min(width, count_maps - p * width);
                for (int64_t j = 0; j < in_panel; ++j)
                    for (int64_t n = 0; n < count; ++n) {
                        const int64_t m = p * width + j;
                        const T* values = group + n * row;
                        const T* map = maps + m * depth;
                        const int64_t at_k = finite ? first_position<T, At::template lanes<T>>(
                                                          values, map, stretch[n * width + j],
                                                          depth, best[n * width + j]
                                                      )
                                                    : exact_position<T>(values, map, depth);
                        pooled[m * channels + first + i + n] = values[at_k] * map[at_k];
                        position[m * channels + first + i + n] = static_cast<int32_t>(at_k);
                    }
            }
        }
    }
}

// Both gradients of one image: each reaches only the position of the maximum.
template <typename At, typename S, typename T>
void max_backward(
    At at, const Rows<const S>& x, bool channels_last, const T* maps, int64_t count_maps,
    const T* grad_pooled, const int32_t* position, const Rows<S>& grad_x, T* grad_maps
) {
    const int64_t depth = channels_last ? x.rows : x.columns;
    const int64_t channels = channels_last ? x.columns : x.rows;
    const Scratch<T> copy(kMaxTile * depth), grads(kMaxTile * depth);
    std::fill(grad_maps, grad_maps + count_maps * depth, T(0));
    for (int64_t first = 0; first < channels; first += kMaxTile) {
        const int64_t tile = std::min(kMaxTile, channels - first);
        int64_t row = 0;
        const T* rows = channel_rows(at, x, channels_last, first, tile, copy.data(), row);
        std::fill(grads.data(), grads.data() + tile * depth, T(0));
        for (int64_t i = 0; i < tile; ++i) {
            const T* values = rows + i * row;
            T* grad = grads.data() + i * depth;
            for (int64_t m = 0; m < count_maps; ++m) {
                const T slope = grad_pooled[m * channels + first + i];
                const int64_t k = position[m * channels + first + i];
                grad[k] += slope * maps[m * depth + k];
                grad_maps[m * depth + k] += slope * values[k];
            }
        }
        if (channels_last) {
            for (int64_t k = 0; k < depth; ++k)
                for (int64_t i = 0; i < tile; ++i)
                    grad_x.row(k)[first + i] = static_cast<S>(grads[i * depth + k]);
        } else {
            for (int64_t i = 0; i < tile; ++i)
                convert_row(at, grads.data() + i * depth, grad_x.row(first + i), depth);
        }
    }
}

}  // namespace wsdan
