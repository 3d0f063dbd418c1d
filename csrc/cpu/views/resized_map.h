// An attention map at the size of its image, which is never stored: the map is widened once to h
// rows of W values, and an image row is blended from two of them only where it can matter.
//
// Rounding is that of torch's interpolate to within 2 ulp, horizontal first.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "../../common/boxes.h"
#include "../levels.h"
#include "../taps.h"

namespace wsdan {

struct MapGeometry {
    int64_t map_height, map_width, height, width;
    BoxRule rule;
    bool align_corners;
    int64_t map_size() const {
        return map_height * map_width;
    }
};

// The maximum in eight independent lanes, which the compiler turns into vector instructions.
template <typename T>
T maximum(const T* values, int64_t count) {
    constexpr int64_t lanes = 8;
    T best[lanes];
    std::fill(best, best + lanes, values[0]);
    int64_t i = 0;
    for (; i + lanes <= count; i += lanes)
        for (int64_t j = 0; j < lanes; ++j)
            best[j] = best[j] < values[i + j] ? values[i + j] : best[j];
    for (; i < count; ++i)
        best[0] = std::max(best[0], values[i]);
    return *std::max_element(best, best + lanes);
}

template <typename At, typename T>
class ResizedMap {
public:
    WSDAN_NOINLINE explicit ResizedMap(const MapGeometry& geometry)
        : geometry_(geometry),
          columns_(bilinear_taps<T>(geometry.map_width, geometry.width, geometry.align_corners)),
          rows_(bilinear_taps<T>(geometry.map_height, geometry.height, geometry.align_corners)),
          wide_(geometry.map_height * geometry.width),
          row_maxima_(geometry.map_height),
          row_(geometry.width) {}

    // Takes a map (h x w). Its peak is then the maximum that the rule asks for, or 0 for a map that
    // is dead: one that holds a NaN or an infinity, or has nothing above 0.
    void load(const T* map) {
        run_apart(At{}, [this, map](auto /*at*/) { widen(map); });
    }

    T peak() const {
        return peak_;
    }

    // No value of row y of the resized map exceeds this one.
    T bound(int64_t y) const {
        const Tap<T>& tap = rows_[y];
        return blend_bound(row_maxima_[tap.lower], row_maxima_[tap.upper]);
    }

    // Row y of the resized map: W values, valid until the next call.
    const T* row(int64_t y) {
        const Tap<T>& tap = rows_[y];
        const T* lower = wide_.data() + tap.lower * geometry_.width;
        const T* upper = wide_.data() + tap.upper * geometry_.width;
        const T weight = tap.weight;
        for (int64_t x = 0; x < geometry_.width; ++x)
            row_[x] = blend(lower[x], upper[x], weight);
        return row_.data();
    }

    const MapGeometry& geometry() const {
        return geometry_;
    }

private:
    void widen(const T* map) {
        const int64_t size = geometry_.map_size(), width = geometry_.width;
        peak_ = 0;
        if (!std::all_of(map, map + size, [](T value) { return std::isfinite(value); }))
            return;
        for (int64_t y = 0; y < geometry_.map_height; ++y) {
            const T* source = map + y * geometry_.map_width;
            T* target = wide_.data() + y * width;
            for (int64_t x = 0; x < width; ++x) {
                const Tap<T>& tap = columns_[x];
                target[x] = blend(source[tap.lower], source[tap.upper], tap.weight);
            }
            row_maxima_[y] = maximum(target, width);
        }
        peak_ = geometry_.rule == BoxRule::paper ? resized_peak() : maximum(map, size);
        peak_ = peak_ > 0 ? peak_ : T(0);
    }

    T resized_peak() {
        T best = 0;
        for (int64_t y = 0; y < geometry_.height; ++y)
            if (bound(y) > best)
                best = std::max(best, maximum(row(y), geometry_.width));
        return best;
    }

    const MapGeometry geometry_;
    std::vector<Tap<T>> columns_, rows_;
    std::vector<T> wide_, row_maxima_, row_;
    T peak_ = 0;
};

}  // namespace wsdan
