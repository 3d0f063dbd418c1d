// The taps of a whole axis.
#pragma once

#include <cstdint>
#include <vector>

#include "../common/bilinear.h"
#include "levels.h"

namespace wsdan {

template <typename T>
WSDAN_NOINLINE std::vector<Tap<T>> bilinear_taps(int64_t in, int64_t out, bool align_corners) {
    const Axis<T> axis(in, out, align_corners);
    std::vector<Tap<T>> taps;
    taps.reserve(static_cast<std::size_t>(out));
    for (int64_t i = 0; i < out; ++i)
        taps.push_back(axis.blending_tap(i));
    return taps;
}

}  // namespace wsdan
