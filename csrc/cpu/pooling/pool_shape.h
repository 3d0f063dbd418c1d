// What pooling asks of its tensors: sizes, and where features and maps lie in memory.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../tensors.h"
#include "pool_layout.h"

namespace wsdan {

struct PoolShape {
    int64_t batch, maps, channels, positions;
    bool channels_last;  // rows of C, else rows of K
};

// Whether the K positions of features (B,C,h,w) lie at one distance from each other.
inline bool positions_in_line(const Tensor& t) {
    return t.size(2) == 1 || t.size(3) == 1 || t.stride(2) == t.size(3) * t.stride(3);
}

inline int64_t position_stride(const Tensor& t) {
    return t.size(3) > 1 ? t.stride(3) : t.size(2) > 1 ? t.stride(2) : 1;
}

inline bool rows_of_positions(const Tensor& t) {
    return positions_in_line(t) && position_stride(t) == 1;
}

inline bool rows_of_channels(const Tensor& t) {
    return positions_in_line(t) && (t.stride(1) == 1 || t.size(1) == 1);
}

template <typename S>
Rows<S> image_rows(const Tensor& t, S* data, int64_t b, bool channels_last) {
    const int64_t positions = t.size(2) * t.size(3);
    S* image = data + b * t.stride(0);
    if (channels_last)
        return {image, positions, t.size(1), position_stride(t)};
    return {image, t.size(1), positions, t.stride(1)};
}

}  // namespace wsdan
