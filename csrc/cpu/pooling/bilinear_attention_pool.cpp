// Bilinear attention pooling on the CPU (arXiv:1901.09891, eq. 2-4): the product over the
// positions, the signed root and the norm, reading the features once; backward, both gradients in
// one pass.
//
// B*C*K + B*M*K elements are read and 2 B*M*C*K operations done; backward twice the operations, and
// B*C*K + B*M*K more elements written. Half precision is accumulated in float32.

#if defined(__clang__)
#pragma clang fp contract(fast)
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=fast")
#endif

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <string>
#include <utility>

#include "../levels.h"
#include "../parallel.h"
#include "../scratch.h"
#include "../tensors.h"
#include "pool_epilogue.h"
#include "pool_layout.h"
#include "pool_maps.h"
#include "pool_max.h"
#include "pool_mkl.h"
#include "pool_shape.h"

namespace wsdan {
namespace {

enum class Reduce { mean, sum, max };

Reduce reduce_of(const std::string& name) {
    return name == "mean" ? Reduce::mean : name == "sum" ? Reduce::sum : Reduce::max;
}

PoolOptions pool_options(
    bool signed_sqrt, const std::string& normalize, int64_t groups, int64_t maps, double eps,
    double scale
) {
    return {signed_sqrt, normalize == "none" ? 0 : normalize == "part" ? maps : groups, eps, scale};
}

// A part of one image: `units` of something are split into `parts`, in steps of `step`.
struct Part {
    int64_t image, begin, end;
    Part(int64_t task, int64_t parts, int64_t units, int64_t step)
        : image(task / parts), begin(0), end(units) {
        const int64_t share = ((units + parts - 1) / parts + step - 1) / step * step;
        begin = std::min(units, (task % parts) * share);
        end = std::min(units, begin + share);
    }
};

template <typename S, typename T>
void pool_forward(
    const Tensor& features, const Tensor& attentions, Reduce reduce, PoolOptions options,
    const PoolShape& shape, Tensor& output, Tensor& pooled, Tensor& index
) {
    const PoolMaps<S, T> image_maps(attentions, features);
    const S* feature_data = data_of<const S>(features);
    T* output_data = data_of<T>(output);
    T* pooled_data = data_of<T>(pooled);
    const int64_t channels = shape.channels, maps = shape.maps, positions = shape.positions;
    const int64_t parts = parts_per_image(shape.batch, channels / 32);
    const int64_t cost = channels * positions * maps / parts;
    const T divide = reduce == Reduce::mean ? static_cast<T>(positions) : T(1);

    for_each_task(shape.batch * parts, cost, [&](int64_t task) {
        at_cpu_level([&](auto at) {
            using At = decltype(at);
            constexpr int64_t width = kPanel<At, T>;
            const Part part(task, parts, channels, std::max<int64_t>(width, 8 * At::rows));
            const int64_t count = part.end - part.begin;
            if (count <= 0)
                return;
            const auto x = image_rows(features, feature_data, part.image, shape.channels_last);
            T* image = pooled_data + part.image * maps * channels;
            const int64_t padded = panels_of<At, T>(at, maps) * width;
            if (reduce == Reduce::max) {
                const Scratch<T> weights(maps * positions), panels(padded * positions);
                image_maps.load(at, part.image, weights.data());
                const Scratch<int32_t> where(maps * channels);
                pack_transposed(at, weights.data(), maps, positions, panels.data());
                max_forward(
                    at, x, shape.channels_last, part.begin, part.end, weights.data(), panels.data(),
                    maps, image, where.data(), channels
                );
                for (int64_t m = 0; m < maps; ++m)
                    store_index(
                        index, (part.image * maps + m) * channels + part.begin,
                        where.data() + m * channels + part.begin, count
                    );
            } else if (shape.channels_last) {
                const int64_t block = block_rows<T>(channels);
                const int64_t columns = panels_of<At, T>(at, count) * width;
                const Scratch<T> weights(maps * positions);
                const Scratch<T> packed(block * columns), sums(maps * columns), row(count);
                image_maps.load(at, part.image, weights.data());
                for (int64_t first = 0; first < positions; first += block) {
                    const int64_t rows = std::min(block, positions - first);
                    across_rows(
                        at, x, first, rows, part.begin, part.end, weights.data(), positions, maps,
                        sums.data(), packed.data(), row.data(),
                        memory_of(x, first + rows, parts == 1 ? block : 0)
                    );
                }
                unpack_panels(at, sums.data(), maps, image, channels, part.begin, part.end);
            } else {
                const Scratch<T> panels(padded * positions), sums(padded * count);
                image_maps.load_panels(at, part.image, panels.data());
                along_rows(at, x, part.begin, part.end, panels.data(), maps, sums.data());
                transpose(sums.data(), padded, count, maps, image + part.begin, channels);
            }
            if (divide != T(1))
                for (int64_t m = 0; m < maps; ++m)
                    for (int64_t c = part.begin; c < part.end; ++c)
                        image[m * channels + c] /= divide;
            if (parts == 1)
                pool_output(
                    image, output_data + part.image * maps * channels, maps, channels, options
                );
        });
    });
    if (parts == 1)
        return;
    for_each_task(shape.batch, maps * channels, [&](int64_t b) {
        at_cpu_level([&](auto /*at*/) {
            const int64_t start = b * maps * channels;
            pool_output(pooled_data + start, output_data + start, maps, channels, options);
        });
    });
}

// Rows of K: both gradients for positions begin..end of one image.
template <typename At, typename S, typename T>
void backward_rows_of_positions(
    At at, const Rows<const S>& x, const Rows<S>& grad_x, const T* weights, const T* slopes,
    int64_t maps, int64_t begin, int64_t end, S* grad_maps, bool stream
) {
    constexpr int64_t width = kPanel<At, T>;
    const int64_t channels = x.rows, block = block_rows<T>(x.columns);
    const int64_t columns = panels_of<At, T>(at, end - begin) * width;
    const Scratch<T> packed(block * columns), map_panels(maps * columns), sums(maps * columns);
    const Scratch<T> row(columns), buffer(At::rows * columns);
    const Rows<const T> map_rows{weights, maps, x.columns, x.columns};
    pack_panels(at, map_rows, /*first=*/0, maps, begin, end, map_panels.data(), row.data());
    for (int64_t first = 0; first < channels; first += block) {
        const int64_t count = std::min(block, channels - first);
        across_rows(
            at, x, first, count, begin, end, slopes, channels, maps, sums.data(), packed.data(),
            row.data(), memory_of(x, first + count, end - begin == x.columns ? block : 0)
        );
        outer_rows(
            at, slopes, channels, map_panels.data(), maps, grad_x, first, count, begin, end,
            buffer.data(), stream
        );
    }
    unpack_panels(at, sums.data(), maps, grad_maps, x.columns, begin, end);
}

// Rows of C: the same for positions begin..end, which are rows here.
template <typename At, typename S, typename T>
void backward_rows_of_channels(
    At at, const Rows<const S>& x, const Rows<S>& grad_x, const T* weights, const T* slopes,
    int64_t maps, int64_t begin, int64_t end, S* grad_maps, bool stream
) {
    constexpr int64_t width = kPanel<At, T>;
    const int64_t channels = x.columns, tile = 8 * At::rows;
    const int64_t padded = panels_of<At, T>(at, maps) * width;
    const int64_t columns = panels_of<At, T>(at, channels) * width;
    const Scratch<T> transposed(channels * padded), panels(maps * columns);
    const Scratch<T> sums(tile * padded), row(std::max(columns, tile)), buffer(At::rows * columns);
    const Rows<const T> slope_rows{slopes, maps, channels, channels};
    pack_transposed(at, slopes, maps, channels, transposed.data());
    pack_panels(
        at, slope_rows, /*first=*/0, maps, /*begin=*/0, channels, panels.data(), row.data()
    );
    for (int64_t first = begin; first < end; first += tile) {
        const int64_t count = std::min(tile, end - first);
        along_rows(at, x, first, first + count, transposed.data(), maps, sums.data());
        for (int64_t m = 0; m < maps; ++m) {
            for (int64_t i = 0; i < count; ++i)
                row[i] = sums[i * padded + m];
            convert_row(at, row.data(), grad_maps + m * x.rows + first, count);
        }
        outer_rows(
            at, weights, x.rows, panels.data(), maps, grad_x, first, count, /*begin=*/0, channels,
            buffer.data(), stream
        );
    }
}

// The gradient of the pooled values of all images (B,M,C); `divide` is K for the mean.
template <typename T>
Scratch<T> pooled_gradients(
    const Tensor& grad_output, const Tensor& pooled, T divide, PoolOptions options,
    const PoolShape& shape
) {
    const T* grad_data = data_of<const T>(grad_output);
    const T* pooled_data = data_of<const T>(pooled);
    const int64_t size = shape.maps * shape.channels;
    Scratch<T> slopes(shape.batch * size);
    for_each_task(shape.batch, size, [&](int64_t b) {
        at_cpu_level([&](auto /*at*/) {
            pool_output_backward(
                grad_data + b * size, pooled_data + b * size, slopes.data() + b * size, shape.maps,
                shape.channels, divide, options
            );
        });
    });
    return slopes;
}

template <typename S, typename T>
void pool_backward(
    const Tensor& grad_output, const Tensor& features, const Tensor& attentions,
    const Tensor& pooled, const Tensor& index, Reduce reduce, PoolOptions options,
    const PoolShape& shape, Tensor& grad_features, Tensor& grad_attentions
) {
    const PoolMaps<S, T> image_maps(attentions, features);
    const S* feature_data = data_of<const S>(features);
    S* grad_feature_data = data_of<S>(grad_features);
    const int64_t channels = shape.channels, maps = shape.maps, positions = shape.positions;
    const int64_t size = maps * channels;
    const T divide = reduce == Reduce::mean ? static_cast<T>(positions) : T(1);
    const int64_t parts = reduce == Reduce::max ? 1 : parts_per_image(shape.batch, positions / 32);

    const bool stream = worth_streaming(size_of(grad_features));
    const MapGradients<S, T> map_gradients(image_maps, shape.batch, parts, grad_attentions);
    const Scratch<T> slopes = pooled_gradients(grad_output, pooled, divide, options, shape);
    for_each_task(shape.batch * parts, 2 * size * positions / parts, [&](int64_t task) {
        at_cpu_level([&](auto at) {
            using At = decltype(at);
            const Part part(task, parts, positions, std::max<int64_t>(kPanel<At, T>, At::rows));
            if (part.begin >= part.end)
                return;
            const int64_t b = part.image;
            const auto x = image_rows(features, feature_data, b, shape.channels_last);
            const auto grad_x =
                image_rows(grad_features, grad_feature_data, b, shape.channels_last);
            const T* slope = slopes.data() + b * size;
            const Scratch<T> weights(maps * positions);
            image_maps.load(at, b, weights.data());
            map_gradients.fill(b, [&](S* grad_maps) {
                if (reduce == Reduce::max) {
                    const Scratch<T> sums(maps * positions);
                    const Scratch<int32_t> where(size);
                    load_index(index, b * size, where.data(), size);
                    max_backward(
                        at, x, shape.channels_last, weights.data(), maps, slope, where.data(),
                        grad_x, sums.data()
                    );
                    convert_row(at, sums.data(), grad_maps, maps * positions);
                } else if (shape.channels_last) {
                    backward_rows_of_channels(
                        at, x, grad_x, weights.data(), slope, maps, part.begin, part.end, grad_maps,
                        stream
                    );
                } else {
                    backward_rows_of_positions(
                        at, x, grad_x, weights.data(), slope, maps, part.begin, part.end, grad_maps,
                        stream
                    );
                }
            });
            end_streams();
        });
    });
    map_gradients.finish();
}

// Features whose rows can be read in place, or a contiguous copy.
Tensor readable(const Tensor& features) {
    const bool in_place = rows_of_positions(features) || rows_of_channels(features);
    return in_place ? features : torch::stable::contiguous(features);
}

PoolShape shape_of(const Tensor& features, const Tensor& attentions, bool channels_last) {
    STD_TORCH_CHECK(
        features.size(0) == attentions.size(0),
        "bilinear_attention_pool: features and attentions differ in B"
    );
    return {
        features.size(0), attentions.size(1), features.size(1), features.size(2) * features.size(3),
        channels_last
    };
}

// features (B,C,h,w), attentions (B,M,h',w') -> output, pooled (B,M,C), index (B,M,C) or (0,).
void bilinear_attention_pool(
    const Tensor& features, const Tensor& attentions, const std::string& reduce, bool signed_sqrt,
    const std::string& normalize, int64_t groups, double eps, double scale, Tensor output,
    Tensor pooled, Tensor index
) {
    const Tensor x = readable(features);
    const PoolShape shape = shape_of(x, attentions, !rows_of_positions(x));
    const PoolOptions options =
        pool_options(signed_sqrt, normalize, groups, shape.maps, eps, scale);
    if (reduce != "max" && mkl_takes(x, shape) && mkl_wins(shape)) {
        const float divide = reduce == "mean" ? static_cast<float>(shape.positions) : 1.0f;
        mkl_pool(x, attentions, divide, options, shape, output, pooled);
        return;
    }
    with_types(x.scalar_type(), "bilinear_attention_pool", [&](auto stored, auto computed) {
        pool_forward<decltype(stored), decltype(computed)>(
            x, attentions, reduce_of(reduce), options, shape, output, pooled, index
        );
    });
}

// The gradients have the layout of the features: channels_last, or contiguous.
void bilinear_attention_pool_backward(
    const Tensor& grad_output, const Tensor& features, const Tensor& attentions,
    const Tensor& pooled, const Tensor& index, const std::string& reduce, bool signed_sqrt,
    const std::string& normalize, int64_t groups, double eps, double scale, Tensor grad_features,
    Tensor grad_attentions
) {
    const bool channels_last = !rows_of_positions(grad_features);
    const bool in_place = channels_last ? rows_of_channels(features) : rows_of_positions(features);
    const Tensor x = in_place ? features : torch::stable::contiguous(features);
    const Tensor grad = torch::stable::contiguous(grad_output);
    const Tensor sums = torch::stable::contiguous(pooled), where = torch::stable::contiguous(index);
    const PoolShape shape = shape_of(x, attentions, channels_last);
    STD_TORCH_CHECK(
        index_within(where, shape.positions), "bilinear_attention_pool: index must be in [0, ",
        shape.positions, ")"
    );
    const PoolOptions options =
        pool_options(signed_sqrt, normalize, groups, shape.maps, eps, scale);
    if (reduce != "max" && mkl_takes(x, shape) && mkl_wins_backward(shape)) {
        const float divide = reduce == "mean" ? static_cast<float>(shape.positions) : 1.0f;
        const Scratch<float> slopes = pooled_gradients(grad, sums, divide, options, shape);
        mkl_pool_backward(x, attentions, slopes.data(), shape, grad_features, grad_attentions);
        return;
    }
    with_types(x.scalar_type(), "bilinear_attention_pool", [&](auto stored, auto computed) {
        pool_backward<decltype(stored), decltype(computed)>(
            grad, x, attentions, sums, where, reduce_of(reduce), options, shape, grad_features,
            grad_attentions
        );
    });
}

STABLE_TORCH_LIBRARY_IMPL(wsdan_native, CPU, library) {
    library.impl("bilinear_attention_pool", TORCH_BOX(&bilinear_attention_pool));
    library.impl("bilinear_attention_pool_backward", TORCH_BOX(&bilinear_attention_pool_backward));
}

}  // namespace
}  // namespace wsdan
