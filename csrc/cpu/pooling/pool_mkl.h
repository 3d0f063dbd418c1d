// Mean and sum pooling by MKL's products, where they are faster than those of product.h.
//
// The products of an image are cut into pieces by the shape alone, and each piece is computed on
// one thread: neither the number of threads nor the batch changes a bit.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../levels.h"
#include "../parallel.h"
#include "../scratch.h"
#include "mkl.h"
#include "pool_epilogue.h"
#include "pool_maps.h"
#include "pool_shape.h"

namespace wsdan {

constexpr int64_t kMklPieces = 4;  // of an image: work for as many threads

// Image b of features as (C x K), or of maps as (M x K).
template <typename T>
Matrix<T> image_matrix(const Tensor& t, int64_t b) {
    const int64_t positions = t.size(2) * t.size(3), step = position_stride(t);
    const int64_t row = t.size(1) > 1 ? t.stride(1) : step == 1 ? positions : 1;
    return {data_of<T>(t) + b * t.stride(0), t.size(1), positions, row, step};
}

inline bool read_by_mkl(const Tensor& t) {
    return positions_in_line(t) && image_matrix<const float>(t, /*b=*/0).dense();
}

// Where MKL is faster: the time of our kernels over MKL's, first with features and gradients in the
// cache, then not. One thread of an Intel Xeon (AVX-512), MKL 2024.2, B 12, in turn, 20th
// percentiles of processor time; each clause below has its rows here. Few maps gain in the backward
// only where the cache holds both, as between the layers of a network; a reader of the gradient
// gains with it (M 5: 1.7, M 8 and 16: 1.3).
//
//   forward   rows of K, C 768, 26x26   M 5: 1.8, 1.2   M 8: 1.4, 1.1   M 16: 1.2, 0.9
//                                       M 32: 0.9, 0.8  M 64: 1.0, 0.9
//             rows of K, C 2048, 7x7    M 8: 1.0        M 32: 1.4, 1.2  M 64: 1.5
//             rows of C, C 768, 26x26   M 5: 1.0, 0.9   M 16: 1.1, 0.7  M 32: 1.3, 1.0
//                                       M 64: 1.5, 1.4
//   backward  rows of K, C 768, 26x26   M 4: 1.1, 0.8   M 5: 1.3, 0.9   M 8: 1.0, 0.9
//                                       M 16: 1.0, 0.9  M 32: 1.2, 1.1  M 64: 1.4, 1.3
//             rows of K, C 2048         M 1, 26x26: 0.7, 0.7            M 32, 7x7: 1.0, 1.0
//             rows of C, C 768, 26x26   M 5: 2.2, 1.2   M 16: 1.4, 1.1  M 32: 1.2, 1.1
//             rows of C, C 2048         M 8, 14x14: 2.1, 1.3            M 32, 14x14: 0.9
inline bool mkl_wins(const PoolShape& s) {
    if (s.channels_last)
        return s.maps >= 32;
    return s.maps <= 12 || (s.maps >= 32 && s.positions <= 64);
}

inline bool mkl_wins_backward(const PoolShape& s) {
    if (s.channels_last)  // rows whole pages apart fall on the same lines of the cache
        return s.maps <= 16 || s.channels % 1024 != 0;
    return s.maps >= 4 && s.positions >= 128;
}

// Whether MKL can take the products of this shape, large enough for a call of it.
inline bool mkl_takes(const Tensor& features, const PoolShape& s) {
    constexpr int64_t kWorthACall = 1 << 20;  // multiplications
    return mkl_here() && features.scalar_type() == ScalarType::Float && s.batch > 0 &&
           s.maps * s.channels * s.positions >= kWorthACall && read_by_mkl(features);
}

// The maps of image b for MKL: where they are stored, or in scratch. Beside features in rows of K
// they lie in rows too, as (K x M) makes MKL's product of M 5 five times as slow there.
class MklMaps {
public:
    MklMaps(const PoolMaps<float, float>& maps, int64_t b, const PoolShape& s)
        : in_place_(
              !maps.resized() && read_by_mkl(maps.stored()) &&
              (s.channels_last || !maps.interleaved())
          ),
          room_(in_place_ ? 0 : maps.size()),
          matrix_{room_.data(), s.maps, s.positions, s.positions, 1} {
        if (in_place_) {
            matrix_ = image_matrix<const float>(maps.stored(), b);
        } else if (s.channels_last) {
            matrix_ = {room_.data(), s.maps, s.positions, 1, s.maps};
            at_cpu_level([&](auto at) { maps.load_across(at, b, room_.data()); });
        } else {
            at_cpu_level([&](auto at) { maps.load(at, b, room_.data()); });
        }
    }

    const Matrix<const float>& matrix() const {
        return matrix_;
    }

private:
    bool in_place_;
    Scratch<float> room_;
    Matrix<const float> matrix_;
};

// How 0..units of each image is cut, and the pieces that fall to each of its parts.
struct MklPieces {
    int64_t units, count, size, parts;

    MklPieces(int64_t units, int64_t parts, int64_t count = kMklPieces)
        : units(units),
          count(count),
          size(((units + count - 1) / count + 15) / 16 * 16),
          parts(parts) {}

    // body(begin, end) for the pieces of this part.
    template <typename Body>
    void each(int64_t part, const Body& body) const {
        const int64_t last = (part + 1) * count / parts;
        for (int64_t piece = part * count / parts; piece < last; ++piece)
            if (piece * size < units)
                body(piece * size, std::min(units, (piece + 1) * size));
    }
};

// pooled (M x C) = maps (M x K) features^T (K x C), by pieces of C; divided, then its output.
inline void mkl_pool(
    const Tensor& features, const Tensor& attentions, float divide, PoolOptions options,
    const PoolShape& shape, Tensor& output, Tensor& pooled
) {
    const PoolMaps<float, float> image_maps(attentions, features);
    const int64_t channels = shape.channels, maps = shape.maps, size = maps * channels;
    float* pooled_data = data_of<float>(pooled);
    float* output_data = data_of<float>(output);
    const auto finish = [&](int64_t b) {
        at_cpu_level([&](auto /*at*/) {
            float* image = pooled_data + b * size;
            if (divide != 1)
                for (int64_t i = 0; i < size; ++i)
                    image[i] /= divide;
            pool_output(image, output_data + b * size, maps, channels, options);
        });
    };
    const int64_t parts = parts_per_image(shape.batch, kMklPieces);
    const MklPieces pieces(channels, parts);
    for_each_task(shape.batch * parts, size * shape.positions / parts, [&](int64_t task) {
        const int64_t b = task / parts;
        const MklMaps loaded(image_maps, b, shape);
        const Matrix<const float>& weights = loaded.matrix();
        const auto x = image_matrix<const float>(features, b).transposed();
        const Matrix<float> sums{pooled_data + b * size, maps, channels, channels, 1};
        pieces.each(task % parts, [&](int64_t begin, int64_t end) {
            mkl_product(weights, x.slice(begin, end), sums.slice(begin, end));
        });
        if (parts == 1)
            finish(b);
    });
    if (parts > 1)
        for_each_task(shape.batch, size, finish);
}

// From the gradient of the pooled values, slopes (M x C): that of the maps, slopes features, by
// pieces of K, and that of the features, slopes^T maps: of its rows in memory, up to the 32 maps
// from which on MKL takes 1.4 to 1.7 times as long for whole rows of K as for pieces of them.
inline void mkl_pool_backward(
    const Tensor& features, const Tensor& attentions, const float* slopes, const PoolShape& shape,
    Tensor& grad_features, Tensor& grad_attentions
) {
    const PoolMaps<float, float> image_maps(attentions, features);
    const int64_t channels = shape.channels, maps = shape.maps, size = maps * channels;
    const int64_t positions = shape.positions;
    const int64_t parts = parts_per_image(shape.batch, kMklPieces);
    const MapGradients<float, float> map_gradients(image_maps, shape.batch, parts, grad_attentions);
    const bool by_columns = shape.channels_last || maps > 32;
    const MklPieces columns(positions, parts, by_columns ? kMklPieces : 2);
    const MklPieces rows(channels, parts);
    for_each_task(shape.batch * parts, 2 * size * positions / parts, [&](int64_t task) {
        const int64_t b = task / parts, part = task % parts;
        const MklMaps loaded(image_maps, b, shape);
        const Matrix<const float>& weights = loaded.matrix();
        const auto x = image_matrix<const float>(features, b);
        const auto grad_x = image_matrix<float>(grad_features, b);
        const Matrix<const float> slope{slopes + b * size, maps, channels, channels, 1};
        map_gradients.fill(b, [&](float* to) {
            const Matrix<float> grad_maps{to, maps, positions, positions, 1};
            columns.each(part, [&](int64_t begin, int64_t end) {
                mkl_product(slope, x.slice(begin, end), grad_maps.slice(begin, end));
                if (by_columns)
                    mkl_product(
                        slope.transposed(), weights.slice(begin, end), grad_x.slice(begin, end)
                    );
            });
        });
        if (!by_columns)
            rows.each(part, [&](int64_t begin, int64_t end) {
                mkl_product(
                    weights.transposed(), slope.slice(begin, end),
                    grad_x.transposed().slice(begin, end)
                );
            });
    });
    map_gradients.finish();
}

}  // namespace wsdan
