// A crop of one image, row by row: source rows are widened to the crop's width once, on demand, and
// an output row is blended from two of them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "../convert.h"
#include "../levels.h"
#include "../product.h"
#include "../scratch.h"
#include "../taps.h"
#include "images.h"

namespace wsdan {

// The taps of a row in the order that vectors read them: `lanes` outputs lie within `lanes` + 1
// neighbouring inputs where the row grows or stays, so two loads and two shuffles serve them.
template <typename T, int lanes>
class ShuffledTaps {
public:
    using Int = std::conditional_t<sizeof(T) == 8, int64_t, int32_t>;
    using V = typename VectorOf<T, lanes>::type;
    using I = typename VectorOf<Int, lanes>::type;

    WSDAN_NOINLINE explicit ShuffledTaps(const std::vector<Tap<T>>& taps)
        : count_((static_cast<int64_t>(taps.size()) + lanes - 1) / lanes),
          base_(count_),
          offset_(count_ * lanes),
          weight_(count_ * lanes) {
        for (int64_t j = 0; j < count_ * lanes; ++j) {
            const Tap<T>& tap = taps[std::min(j, static_cast<int64_t>(taps.size()) - 1)];
            if (j % lanes == 0)
                base_[j / lanes] = tap.lower;
            offset_[j] = static_cast<Int>(tap.lower - base_[j / lanes]);
            weight_[j] = tap.weight;
            usable_ = usable_ && offset_[j] < lanes;
        }
    }

    bool usable() const {
        return usable_;
    }

    // `in` repeats its last value `lanes` times; `out` has room for whole vectors.
    void widen(const T* in, T* out) const {
        for (int64_t block = 0; block < count_; ++block) {
            const T* source = in + base_[block];
            const I order = *reinterpret_cast<const I*>(offset_.data() + block * lanes);
            const V weight = *reinterpret_cast<const V*>(weight_.data() + block * lanes);
            const V lower = shuffled(*reinterpret_cast<const V*>(source), order);
            const V upper = shuffled(*reinterpret_cast<const V*>(source + 1), order);
            *reinterpret_cast<V*>(out + block * lanes) = lower * (1 - weight) + upper * weight;
        }
    }

private:
    // values[order[0]], values[order[1]], ...
    static V shuffled(const V& values, const I& order) {
#if defined(__clang__)
        return __builtin_shufflevector(values, order);
#else
        return __builtin_shuffle(values, order);
#endif
    }

    int64_t count_;
    std::vector<int64_t> base_;
    std::vector<Int> offset_;
    std::vector<T> weight_;
    bool usable_ = true;
};

template <typename At, typename S, typename T>
class CropRows {
public:
    WSDAN_NOINLINE CropRows(
        const ImageRows<const S>& image, const Box& box, const ImageRows<S>& crop,
        bool align_corners, bool stream
    )
        : image_(image),
          crop_(crop),
          box_(box),
          stream_(stream),
          columns_(bilinear_taps<T>(box.width(), crop.width, align_corners)),
          rows_(bilinear_taps<T>(box.height(), crop.height, align_corners)),
          shuffled_(columns_),
          line_(box.width() * image.pixel + kRoom),
          room_(crop.row_size() + kRoom),
          wide_(2 * image.planes * room_),
          held_(2 * image.planes, -1),
          blended_(crop.row_size()) {}

    // The source row, in the image, after which output row i can be made.
    int64_t last_source(int64_t i) const {
        return box_.top + rows_[i].upper;
    }

    void make_row(int64_t i) {
        run_apart(At{}, [this, i](auto /*at*/) { blend_row(i); });
    }

private:
    static constexpr int lanes = At::template lanes<T>;
    static constexpr int64_t kRoom = 2 * lanes;

    void blend_row(int64_t i) {
        const Tap<T> tap = rows_[i];
        const int64_t count = crop_.row_size();
        for (int64_t plane = 0; plane < image_.planes; ++plane) {
            const T* lower = wide_row(plane, tap.lower);
            const T* upper = wide_row(plane, tap.upper);
            T* target = blended_.data();
            if constexpr (std::is_same_v<S, T>)
                target = stream_ ? target : crop_.row(plane, i);
            for (int64_t j = 0; j < count; ++j)
                target[j] = blend(lower[j], upper[j], tap.weight);
            if (target == blended_.data())
                store_row(At{}, target, crop_.row(plane, i), count, stream_);
        }
    }

    // Row y of the box at the width of the crop.
    const T* wide_row(int64_t plane, int64_t y) {
        const int64_t slot = 2 * plane + (y & 1);
        T* wide = wide_.data() + slot * room_;
        if (held_[slot] != y) {
            widen(image_.row(plane, box_.top + y) + box_.left * image_.pixel, wide);
            held_[slot] = y;
        }
        return wide;
    }

    void widen(const S* source, T* wide) {
        const int64_t count = box_.width() * image_.pixel, pixel = image_.pixel;
        T* line = line_.data();
        convert_row(At{}, source, line, count);
        for (int64_t i = 0; i < kRoom; ++i)
            line[count + i] = line[count - pixel + i % pixel];
        if (box_.width() == crop_.width)  // each value is both of its neighbours
            for (int64_t i = 0; i < count; ++i)
                wide[i] = blend(line[i], line[i], T(0));
        else if (pixel == 1 && shuffled_.usable())
            shuffled_.widen(line, wide);
        else if (pixel <= 4)
            widen_pixels<4>(line, wide);
        else
            for (int64_t j = 0; j < crop_.width; ++j)
                for (int64_t c = 0; c < pixel; ++c)
                    wide[j * pixel + c] = blend(
                        line[columns_[j].lower * pixel + c], line[columns_[j].upper * pixel + c],
                        columns_[j].weight
                    );
    }

    // A pixel of up to four values at a time; what is written beyond it the next one overwrites.
    template <int size>
    void widen_pixels(const T* line, T* wide) {
        using V = typename VectorOf<T, size>::type;
        const int64_t pixel = image_.pixel;
        for (int64_t j = 0; j < crop_.width; ++j) {
            const Tap<T> tap = columns_[j];
            const V lower = *reinterpret_cast<const V*>(line + tap.lower * pixel);
            const V upper = *reinterpret_cast<const V*>(line + tap.upper * pixel);
            *reinterpret_cast<V*>(wide + j * pixel) = lower * (1 - tap.weight) + upper * tap.weight;
        }
    }

    const ImageRows<const S> image_;
    const ImageRows<S> crop_;
    const Box box_;
    const bool stream_;
    std::vector<Tap<T>> columns_, rows_;
    ShuffledTaps<T, lanes> shuffled_;
    Scratch<T> line_;
    int64_t room_;
    Scratch<T> wide_;  // two rows of each plane, by the parity of y
    std::vector<int64_t> held_;
    Scratch<T> blended_;
};

}  // namespace wsdan
