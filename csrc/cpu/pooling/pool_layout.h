// The features of one image as rows of memory, and maps and gradients in the panels of product.h.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "../convert.h"
#include "../product.h"
#include "../scratch.h"

namespace wsdan {

// `rows` x `columns` elements; those of a row lie side by side. Of features (C,h,w): contiguous is
// C rows of K, channels_last is K rows of C.
template <typename S>
struct Rows {
    S* data;
    int64_t rows, columns, stride;
    S* row(int64_t i) const {
        return data + i * stride;
    }
};

struct Memory {
    const char* data;
    int64_t bytes;
};

// `count` rows from `first` on, where they are all there is between them.
template <typename S>
Memory memory_of(const Rows<const S>& x, int64_t first, int64_t count) {
    count = std::min(count, x.rows - first);
    if (count <= 0 || x.stride != x.columns)
        return {};
    const int64_t row = x.columns * static_cast<int64_t>(sizeof(S));
    return {reinterpret_cast<const char*>(x.row(first)), count * row};
}

// Rows of X that are packed at a time: what stays in a quarter of a small second-level cache.
template <typename T>
int64_t block_rows(int64_t columns) {
    const int64_t fit = 128 * 1024 / (columns * static_cast<int64_t>(sizeof(T)));
    return std::clamp<int64_t>(fit / 8 * 8, 16, 128);
}

// Rows first..first+count of `from`, columns from begin to end, as panels of (count x kPanel); the
// columns that fill the last panel are zero. `row` is scratch for one row.
template <typename At, typename S, typename T>
void pack_panels(
    At at, const Rows<const S>& from, int64_t first, int64_t count, int64_t begin, int64_t end,
    T* panels, T* row
) {
    constexpr int lanes = At::template lanes<T>;
    constexpr int64_t width = 2 * lanes;
    using V = typename VectorOf<T, lanes>::type;
    for (int64_t i = 0; i < count; ++i) {
        const T* source;
        if constexpr (std::is_same_v<S, T>) {
            source = from.row(first + i) + begin;
        } else {
            convert_row(at, from.row(first + i) + begin, row, end - begin);
            source = row;
        }
        T* target = panels + i * width;
        int64_t j = 0;
        for (; j + width <= end - begin; j += width, target += count * width)
            for (int v = 0; v < 2; ++v)
                *reinterpret_cast<V*>(target + v * lanes) =
                    *reinterpret_cast<const V*>(source + j + v * lanes);
        if (j < end - begin)
            for (int64_t k = 0; k < width; ++k)
                target[k] = j + k < end - begin ? source[j + k] : T(0);
    }
}

// to[j][i] = from[i][j], a cache line of `to` at a time.
template <typename T>
void transpose(
    const T* from, int64_t from_row, int64_t rows, int64_t columns, T* to, int64_t to_row
) {
    constexpr int64_t line = 64 / sizeof(T);
    for (int64_t first = 0; first < rows; first += line) {
        const int64_t last = std::min(rows, first + line);
        for (int64_t j = 0; j < columns; ++j)
            for (int64_t i = first; i < last; ++i)
                to[j * to_row + i] = from[i * from_row + j];
    }
}

// The transpose of `from` (M x n, dense) as panels of (n x kPanel) over M.
template <typename At, typename T>
void pack_transposed(At /*at*/, const T* from, int64_t maps, int64_t n, T* panels) {
    constexpr int64_t width = kPanel<At, T>;
    for (int64_t m = 0; m < maps; m += width, panels += n * width) {
        const int64_t count = std::min(width, maps - m);
        transpose(from + m * n, n, count, n, panels, width);
        if (count < width)
            for (int64_t i = 0; i < n; ++i)
                std::fill(panels + i * width + count, panels + (i + 1) * width, T(0));
    }
}

// out[i][m] = sum over the columns of X[i] * W[m], for rows begin..end of X. W comes transposed in
// panels of (columns x kPanel); out has rows of whole panels.
template <typename At, typename S, typename T>
void along_rows(
    At at, const Rows<const S>& x, int64_t begin, int64_t end, const T* panels, int64_t maps, T* out
) {
    constexpr int64_t kDepth = 2048;  // summed in one chain
    const int64_t out_row = panels_of<At, T>(at, maps) * kPanel<At, T>;
    const int64_t tile = 8 * At::rows;
    const bool direct = std::is_same_v<S, T>;
    const Scratch<T> converted(direct ? 0 : tile * x.columns);
    Product<T> p{};
    p.left_step = 1;
    p.left_row = direct ? x.stride : x.columns;
    p.right_row = kPanel<At, T>;
    p.right_panel = x.columns * kPanel<At, T>;
    p.out_row = out_row;
    p.out_panel = kPanel<At, T>;
    p.columns = maps;
    for (int64_t i = begin; i < end; i += tile) {
        p.rows = std::min(tile, end - i);
        const T* left;
        if constexpr (std::is_same_v<S, T>) {
            left = x.row(i);
        } else {
            for (int64_t n = 0; n < p.rows; ++n)
                convert_row(at, x.row(i + n), converted.data() + n * x.columns, x.columns);
            left = converted.data();
        }
        p.out = out + (i - begin) * out_row;
        p.ahead = direct ? 2 * At::rows * x.stride : 0;
        for (int64_t k = 0; k < x.columns; k += kDepth) {
            p.left = left + k;
            p.right = panels + k * kPanel<At, T>;
            p.depth = std::min(kDepth, x.columns - k);
            p.add = k > 0;
            multiply(at, p);
        }
    }
}

// sums[m][j] += sum over i of W[m][first + i] * X[first + i][begin + j]: `count` rows of X; the
// sums are panels of (M x kPanel). Whole panels of X are read in place; what is left, and what
// has to be converted, is packed.
template <typename At, typename S, typename T>
void across_rows(
    At at, const Rows<const S>& x, int64_t first, int64_t count, int64_t begin, int64_t end,
    const T* weights, int64_t weights_row, int64_t maps, T* sums, T* packed, T* row, Memory next
) {
    constexpr int64_t width = kPanel<At, T>;
    Product<T> p{};
    p.fetch = next.data;
    p.fetch_lines = next.bytes / 64;
    p.left = weights + first;
    p.left_row = weights_row;
    p.left_step = 1;
    p.out_row = width;
    p.out_panel = maps * width;
    p.rows = maps;
    p.depth = count;
    p.add = first > 0;
    p.panels_first = true;
    p.out = sums;
    if constexpr (std::is_same_v<S, T>) {
        p.right = x.row(first) + begin;
        p.right_row = x.stride;
        p.right_panel = width;
        p.columns = (end - begin) / width * width;
        if (p.columns > 0) {
            multiply(at, p);
            begin += p.columns;
            p.out += p.columns * maps;
            p.fetch_lines = 0;
        }
    }
    if (begin == end)
        return;
    pack_panels(at, x, first, count, begin, end, packed, row);
    p.right = packed;
    p.right_row = width;
    p.right_panel = count * width;
    p.columns = end - begin;
    multiply(at, p);
}

// Y[i][j] = sum over m of L[m][i] * R[m][j] for rows first..first+count: the outer product that the
// gradient of the features is. R comes in panels of (M x kPanel) for columns begin..end.
template <typename At, typename S, typename T>
void outer_rows(
    At at, const T* left, int64_t left_step, const T* panels, int64_t maps, const Rows<S>& y,
    int64_t first, int64_t count, int64_t begin, int64_t end, T* buffer, bool stream
) {
    const int64_t width = panels_of<At, T>(at, end - begin) * kPanel<At, T>;
    Product<T> p{};
    p.left_row = 1;
    p.left_step = left_step;
    p.right = panels;
    p.right_row = kPanel<At, T>;
    p.right_panel = maps * kPanel<At, T>;
    p.out = buffer;
    p.out_row = width;
    p.out_panel = kPanel<At, T>;
    p.columns = end - begin;
    p.depth = maps;
    for (int64_t i = 0; i < count; i += At::rows) {
        p.left = left + first + i;
        p.rows = std::min<int64_t>(At::rows, count - i);
        multiply(at, p);
        for (int64_t n = 0; n < p.rows; ++n)
            store_row(at, buffer + n * width, y.row(first + i + n) + begin, end - begin, stream);
    }
}

// Panels of (M x kPanel) to rows of M, columns begin..end of each.
template <typename At, typename S, typename T>
void unpack_panels(
    At at, const T* panels, int64_t maps, S* rows, int64_t stride, int64_t begin, int64_t end
) {
    constexpr int64_t width = kPanel<At, T>;
    for (int64_t j = begin; j < end; j += width, panels += maps * width)
        for (int64_t m = 0; m < maps; ++m)
            convert_row(at, panels + m * width, rows + m * stride + j, std::min(width, end - j));
}

}  // namespace wsdan
