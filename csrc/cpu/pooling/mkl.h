// float32 matrix products of the MKL that torch brings, each on the thread that calls.
#pragma once

#include <algorithm>
#include <cstdint>

namespace wsdan {

// Element (i, j) stands at data[i * row + j * column].
template <typename T>
struct Matrix {
    T* data;
    int64_t rows, columns, row, column;

    // Columns begin..end.
    Matrix slice(int64_t begin, int64_t end) const {
        return {data + begin * column, rows, end - begin, row, column};
    }
    Matrix transposed() const {
        return {data, columns, rows, column, row};
    }
    // Whether rows are dense and apart; else columns must be.
    bool by_rows() const {
        return column == 1 && row >= columns;
    }
    // Whether BLAS reads it in place.
    bool dense() const {
        constexpr int64_t most = INT32_MAX;
        const bool by_columns = row == 1 && column >= rows;
        return (by_rows() || by_columns) && std::max({rows, columns, row, column}) <= most;
    }
};

// Whether products are taken from MKL here: an Intel CPU at the level of AVX-512, and an MKL in
// torch whose threads can be limited.
bool mkl_here();

// out = left right; all are dense() and none is empty. MKL's bits hang on the sizes and on its own
// number of threads, which is one here: left alone, it takes torch's in a parallel region too.
void mkl_product(
    const Matrix<const float>& left, const Matrix<const float>& right, const Matrix<float>& out
);

}  // namespace wsdan
