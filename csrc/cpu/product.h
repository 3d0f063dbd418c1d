// Small matrix products, register-blocked: a few rows by one panel are accumulated in registers,
// each element of the left matrix broadcast against a row of the panel.
//
// Include it in a file that allows contraction (see pooling/bilinear_attention_pool.cpp). An output
// is one chain of sums for each call, in the order of the depth, so its bits do not depend on the
// threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "levels.h"

namespace wsdan {

template <typename T, int lanes>
struct VectorOf {
    typedef T type __attribute__((vector_size(lanes * sizeof(T)), aligned(sizeof(T)), may_alias));
};

// Columns of a panel: two vectors.
template <typename At, typename T>
constexpr int64_t kPanel = 2 * At::template lanes<T>;

template <typename At, typename T>
int64_t panels_of(At /*at*/, int64_t columns) {
    return (columns + kPanel<At, T> - 1) / kPanel<At, T>;
}

// out[i][j] (+)= sum over r < depth of left[i * left_row + r * left_step] * right[r][j], i < rows,
// j < columns; the right matrix lies in panels of (depth x kPanel), and so may the output.
template <typename T>
struct Product {
    const T* left;
    int64_t left_row, left_step;
    const T* right;
    int64_t right_row, right_panel;  // elements from one row, or one panel, to the next
    T* out;
    int64_t out_row, out_panel;
    int64_t rows, columns, depth;
    bool add;
    bool panels_first;  // all rows of a panel, then the next; else all panels of a few rows
    int64_t ahead;      // how many elements ahead of the left matrix to fetch; 0: none
    const char* fetch;  // memory to bring near meanwhile, at most a line a step: what comes next
    int64_t fetch_lines;
};

template <typename T, int lanes, int rows, int vectors>
void multiply_block(
    const Product<T>& p, int64_t i, int64_t panel, int64_t ahead, const char* fetch, int64_t lines
) {
    using V = typename VectorOf<T, lanes>::type;
    constexpr int64_t line = 64 / sizeof(T);
    const T* left = p.left + i * p.left_row;
    const T* right = p.right + panel * p.right_panel;
    V sums[rows][vectors] = {};
    const auto step = [&](int64_t r) {
        V across[vectors];
        for (int v = 0; v < vectors; ++v)
            across[v] = *reinterpret_cast<const V*>(right + r * p.right_row + v * lanes);
        for (int n = 0; n < rows; ++n) {
            const T factor = left[n * p.left_row + r * p.left_step];
            for (int v = 0; v < vectors; ++v)
                sums[n][v] += factor * across[v];
        }
    };
    int64_t r = 0;
    if (ahead != 0) {
        for (; r + line <= p.depth; r += line) {
            for (int n = 0; n < rows; ++n)
                __builtin_prefetch(left + n * p.left_row + r + ahead);
#pragma GCC unroll 1
            for (int64_t s = 0; s < line; ++s)
                step(r + s);
        }
    }
#pragma GCC unroll 1
    for (const int64_t last = std::min(p.depth, r + lines); r < last; ++r, fetch += 64) {
        __builtin_prefetch(fetch, /*write=*/0, /*locality=*/2);
        step(r);
    }
    for (; r < p.depth; ++r)
        step(r);
    for (int n = 0; n < rows; ++n)
        for (int v = 0; v < vectors; ++v) {
            T* out = p.out + (i + n) * p.out_row + panel * p.out_panel + v * lanes;
            V& target = *reinterpret_cast<V*>(out);
            target = p.add ? target + sums[n][v] : sums[n][v];
        }
}

// The `count` <= rows rows from i on: a remainder goes in blocks of powers of two.
template <typename T, int lanes, int rows, int vectors>
void multiply_rows(
    const Product<T>& p, int64_t i, int64_t count, int64_t panel, int64_t ahead,
    const char* fetch = nullptr, int64_t lines = 0
) {
    for (; count >= rows; count -= rows, i += rows, lines = 0)
        multiply_block<T, lanes, rows, vectors>(p, i, panel, ahead, fetch, lines);
    if constexpr (rows > 1) {
        constexpr int half = rows > 16 ? 16 : rows > 8 ? 8 : rows > 4 ? 4 : rows > 2 ? 2 : 1;
        if (count > 0)
            multiply_rows<T, lanes, half, vectors>(p, i, count, panel, ahead, fetch, lines);
    }
}

template <typename At, typename T>
void multiply(At at, const Product<T>& p) {
    run_apart(at, [&p](auto /*at*/) {
        constexpr int lanes = At::template lanes<T>;
        constexpr int rows = At::rows;
        if (p.columns <= lanes) {  // one vector: twice the rows hide the latency of the sums
            for (int64_t i = 0; i < p.rows; i += 2 * rows)
                multiply_rows<T, lanes, 2 * rows, 1>(
                    p, i, std::min<int64_t>(p.rows - i, 2 * rows), /*panel=*/0, p.ahead
                );
            return;
        }
        const int64_t panels = panels_of<At, T>({}, p.columns);
        const bool half = p.columns - (panels - 1) * 2 * lanes <= lanes;
        const int64_t blocks = panels * ((p.rows + rows - 1) / rows);
        const int64_t lines = (p.fetch_lines + blocks - 1) / blocks;
        const char* fetch = p.fetch;
        const auto block = [&](int64_t i, int64_t panel) {
            const int64_t count = std::min<int64_t>(p.rows - i, rows);
            const int64_t ahead = panel == 0 ? p.ahead : 0;
            if (half && panel == panels - 1)
                multiply_rows<T, lanes, rows, 1>(p, i, count, panel, ahead, fetch, lines);
            else
                multiply_rows<T, lanes, rows, 2>(p, i, count, panel, ahead, fetch, lines);
            fetch += 64 * lines;
        };
        if (p.panels_first) {
            for (int64_t panel = 0; panel < panels; ++panel)
                for (int64_t i = 0; i < p.rows; i += rows)
                    block(i, panel);
        } else {
            for (int64_t i = 0; i < p.rows; i += rows)
                for (int64_t panel = 0; panel < panels; ++panel)
                    block(i, panel);
        }
    });
}

}  // namespace wsdan
