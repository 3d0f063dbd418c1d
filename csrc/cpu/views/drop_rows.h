// Erasing what a map attends to, row by row: image where up < T, 0 elsewhere, bit by bit.
#pragma once

#include <cstdint>

#include "../../common/words.h"
#include "../convert.h"
#include "../scratch.h"
#include "images.h"
#include "resized_map.h"

namespace wsdan {

template <typename At, typename S, typename T>
class DropRows {
public:
    // `map` is loaded; T = threshold * its peak.
    DropRows(
        ResizedMap<At, T>& map, T threshold, const ImageRows<const S>& image,
        const ImageRows<S>& result, bool stream
    )
        : map_(map),
          cut_(threshold * map.peak()),
          image_(image),
          result_(result),
          stream_(stream),
          keep_(image.row_size()),
          masked_(image.row_size()) {}

    void make_row(int64_t y) {
        run_apart(At{}, [this, y](auto /*at*/) { mask_row(y); });
    }

private:
    using Bits = Word<S>;
    typedef Bits MayAlias __attribute__((may_alias));

    void mask_row(int64_t y) {
        const int64_t count = image_.row_size();
        if (!(map_.peak() > 0) || map_.bound(y) < cut_) {
            for (int64_t plane = 0; plane < image_.planes; ++plane)
                store_row(At{}, image_.row(plane, y), result_.row(plane, y), count, stream_);
            return;
        }
        const T* up = map_.row(y);
        Bits* keep = keep_.data();
        if (image_.pixel == 1) {
            for (int64_t x = 0; x < count; ++x)
                keep[x] = up[x] >= cut_ ? Bits(0) : static_cast<Bits>(~Bits(0));
        } else {
            for (int64_t x = 0; x < image_.width; ++x) {
                const Bits bits = up[x] >= cut_ ? Bits(0) : static_cast<Bits>(~Bits(0));
                for (int64_t c = 0; c < image_.pixel; ++c)
                    keep[x * image_.pixel + c] = bits;
            }
        }
        for (int64_t plane = 0; plane < image_.planes; ++plane) {
            const auto* from = reinterpret_cast<const MayAlias*>(image_.row(plane, y));
            S* target = stream_ ? masked_.data() : result_.row(plane, y);
            auto* to = reinterpret_cast<MayAlias*>(target);
            for (int64_t i = 0; i < count; ++i)
                to[i] = from[i] & keep[i];
            if (stream_)
                store_row(At{}, target, result_.row(plane, y), count, /*stream=*/true);
        }
    }

    ResizedMap<At, T>& map_;
    const T cut_;
    const ImageRows<const S> image_;
    const ImageRows<S> result_;
    const bool stream_;
    Scratch<Bits> keep_;
    Scratch<S> masked_;
};

}  // namespace wsdan
