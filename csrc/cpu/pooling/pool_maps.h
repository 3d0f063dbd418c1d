// The maps of one image at the size of its features, and the way back of their gradient. Maps of
// another size are resized (bilinear, align_corners) in scratch, so that no copy of them all is
// written to memory and read again.
//
// All M maps are resized at once, a position a row of M values: 8 operations an element, beside the
// 2 C of the product. The gradient goes back the same way, in the order of the positions.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "../levels.h"
#include "../parallel.h"
#include "../taps.h"
#include "pool_shape.h"

namespace wsdan {

// The step from maps (B,M,h',w') to the size of features (B,C,h,w), rows of M values.
template <typename T>
class MapResize {
public:
    MapResize(const Tensor& attentions, const Tensor& features)
        : height_(attentions.size(2)),
          width_(attentions.size(3)),
          maps_(attentions.size(1)),
          rows_(taps(height_, features.size(2))),
          columns_(taps(width_, features.size(3))) {}

    int64_t positions() const {  // of the maps
        return height_ * width_;
    }

    // (h'w' x M), its rows `step` apart -> (K x M)
    template <typename At>
    void forward(At at, const T* from, int64_t step, T* to) const {
        run_apart(at, [this, from, step, to](auto /*at*/) {
            T* target = to;
            for_each_corners([&](const int64_t* corner, const T* weight) {
                const T* const a = from + corner[0] * step;
                const T* const b = from + corner[1] * step;
                const T* const c = from + corner[2] * step;
                const T* const d = from + corner[3] * step;
                const T wa = weight[0], wb = weight[1], wc = weight[2], wd = weight[3];
                for (int64_t m = 0; m < maps_; ++m)
                    target[m] = wa * a[m] + wb * b[m] + (wc * c[m] + wd * d[m]);
                target += maps_;
            });
        });
    }

    // The transpose: (K x M) -> (h'w' x M)
    template <typename At>
    void backward(At at, const T* from, T* to) const {
        run_apart(at, [this, from, to](auto /*at*/) {
            const T* source = from;
            std::fill(to, to + positions() * maps_, T(0));
            for_each_corners([&](const int64_t* corner, const T* weight) {
                for (int i = 0; i < 4; ++i) {
                    T* const sums = to + corner[i] * maps_;
                    const T share = weight[i];
                    for (int64_t m = 0; m < maps_; ++m)
                        sums[m] += share * source[m];
                }
                source += maps_;
            });
        });
    }

private:
    // As in torch, an axis that keeps its size has no neighbours: a NaN would pass to them.
    static std::vector<Tap<T>> taps(int64_t in, int64_t out) {
        std::vector<Tap<T>> axis = bilinear_taps<T>(in, out, /*align_corners=*/true);
        if (in == out)
            for (Tap<T>& tap : axis)
                tap.upper = tap.lower;
        return axis;
    }

    // body(corners, weights) for every position of the features: the four positions it blends.
    template <typename Body>
    void for_each_corners(const Body& body) const {
        for (const Tap<T>& row : rows_)
            for (const Tap<T>& column : columns_) {
                const int64_t lower = row.lower * width_, upper = row.upper * width_;
                const int64_t corners[] = {
                    lower + column.lower, lower + column.upper, upper + column.lower,
                    upper + column.upper
                };
                const T above = T(1) - row.weight, left = T(1) - column.weight;
                const T weights[] = {
                    above * left, above * column.weight, row.weight * left,
                    row.weight * column.weight
                };
                body(corners, weights);
            }
    }

    int64_t height_, width_, maps_;
    std::vector<Tap<T>> rows_, columns_;
};

// attentions (B,M,h',w') at the size of features (B,C,h,w).
template <typename S, typename T>
class PoolMaps {
public:
    PoolMaps(const Tensor& attentions, const Tensor& features)
        : resized_(
              attentions.size(2) != features.size(2) || attentions.size(3) != features.size(3)
          ),
          interleaved_(rows_of_channels(attentions) && !rows_of_positions(attentions)),
          stored_(interleaved_ ? attentions : torch::stable::contiguous(attentions)),
          resize_(attentions, features),
          maps_(attentions.size(1)),
          positions_(features.size(2) * features.size(3)) {}

    bool resized() const {
        return resized_;
    }
    bool interleaved() const {
        return interleaved_;
    }
    const Tensor& stored() const {
        return stored_;
    }
    int64_t stored_size() const {  // of an image
        return maps_ * resize_.positions();
    }
    int64_t size() const {
        return maps_ * positions_;
    }

    // The maps of image b, (M x K) dense.
    template <typename At>
    void load(At at, int64_t b, T* maps) const {
        if (!resized_ && !interleaved_)
            return convert_row(at, data_of<const S>(stored_) + b * size(), maps, size());
        const Scratch<T> across(size());
        load_across(at, b, across.data());
        transpose(across.data(), maps_, positions_, maps_, maps, positions_);
    }

    // The same transposed, (K x M) dense.
    template <typename At>
    void load_across(At at, int64_t b, T* maps) const {
        run_apart(at, [this, at, b, maps](auto /*at*/) {
            const auto x = image_rows(stored_, data_of<const S>(stored_), b, interleaved_);
            if constexpr (std::is_same_v<S, T>) {
                if (resized_ && interleaved_)
                    return resize_.forward(at, x.data, x.stride, maps);
            }
            const Scratch<T> packed(resized_ ? stored_size() : 0);
            T* const to = resized_ ? packed.data() : maps;
            if (interleaved_)
                pack_rows(at, x, to);
            else
                pack_maps(at, x.data, x.columns, to);
            if (resized_) {
                resize_.forward(at, to, maps_, maps);
                round(at, maps);
            }
        });
    }

    // The same in panels of (K x kPanel).
    template <typename At>
    void load_panels(At at, int64_t b, T* panels) const {
        const Scratch<T> maps(size()), row(maps_);
        if (!resized_ && !interleaved_) {
            load(at, b, maps.data());
            return pack_transposed(at, maps.data(), maps_, positions_, panels);
        }
        load_across(at, b, maps.data());
        const Rows<const T> across{maps.data(), positions_, maps_, maps_};
        pack_panels(at, across, /*first=*/0, positions_, /*begin=*/0, maps_, panels, row.data());
    }

    // From grads (M x K) the gradient of the maps of an image as they are stored, (M x h'w').
    template <typename At>
    void resize_back(At at, const S* grads, S* grad_maps) const {
        const int64_t small = resize_.positions();
        const Scratch<T> across(size()), sums(stored_size());
        pack_maps(at, grads, positions_, across.data());
        resize_.backward(at, across.data(), sums.data());
        if constexpr (std::is_same_v<S, T>) {
            transpose(sums.data(), maps_, small, maps_, grad_maps, small);
        } else {
            const Scratch<T> rows(stored_size());
            transpose(sums.data(), maps_, small, maps_, rows.data(), small);
            convert_row(at, rows.data(), grad_maps, stored_size());
        }
    }

private:
    // To the dtype that the maps are stored in, as torch's interpolate rounds them.
    template <typename At>
    void round(At at, T* maps) const {
        if constexpr (!std::is_same_v<S, T>) {
            const Scratch<S> rounded(size());
            convert_row(at, maps, rounded.data(), size());
            convert_row(at, rounded.data(), maps, size());
        }
    }

    // Rows of M as dense rows of M.
    template <typename At>
    void pack_rows(At at, const Rows<const S>& x, T* to) const {
        for (int64_t i = 0; i < x.rows; ++i)
            convert_row(at, x.row(i), to + i * maps_, maps_);
    }

    // M dense rows of n as rows of M.
    template <typename At>
    void pack_maps(At at, const S* maps, int64_t n, T* to) const {
        if constexpr (std::is_same_v<S, T>) {
            transpose(maps, n, maps_, n, to, maps_);
        } else {
            const Scratch<T> converted(maps_ * n);
            convert_row(at, maps, converted.data(), maps_ * n);
            transpose(converted.data(), n, maps_, n, to, maps_);
        }
    }

    bool resized_, interleaved_;
    Tensor stored_;
    MapResize<T> resize_;
    int64_t maps_, positions_;
};

// Takes the gradients of the maps at the size of the features to those of the maps as they came.
template <typename S, typename T>
class MapGradients {
public:
    // parts: how many tasks fill those of one image.
    MapGradients(const PoolMaps<S, T>& maps, int64_t batch, int64_t parts, Tensor& grads)
        : maps_(maps),
          batch_(batch),
          apart_(maps.resized() && parts > 1),
          grads_(data_of<S>(grads)),
          all_(apart_ ? batch * maps.size() : 0) {}

    // body(to) fills its part of the gradients (M x K) of image b.
    template <typename Body>
    void fill(int64_t b, const Body& body) const {
        if (!maps_.resized() || apart_) {
            body((apart_ ? all_.data() : grads_) + b * maps_.size());
            return;
        }
        const Scratch<S> image(maps_.size());
        body(image.data());
        resize_back(b, image.data());
    }

    // After the last task.
    void finish() const {
        if (apart_)
            for_each_task(batch_, 8 * maps_.size(), [&](int64_t b) {
                resize_back(b, all_.data() + b * maps_.size());
            });
    }

private:
    void resize_back(int64_t b, const S* image) const {
        at_cpu_level([&](auto at) {
            maps_.resize_back(at, image, grads_ + b * maps_.stored_size());
        });
    }

    const PoolMaps<S, T>& maps_;
    int64_t batch_;
    bool apart_;
    S* grads_;
    Scratch<S> all_;
};

}  // namespace wsdan
