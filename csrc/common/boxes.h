// From the first and last position that a map reaches to the padded side of a box; boxes moved
// inside their image.
#pragma once

#include <cstdint>

#include "macros.h"

namespace wsdan {

// "paper": the published listing; "guyuc": WS-DAN.PyTorch and CAL.
enum class BoxRule { paper, guyuc };

struct Interval {
    int64_t start;
    int64_t end;  // half-open
};

// One side of the box around positions first..last of an axis of `size` pixels, at least one pixel
// long. paper pads by int(padding * size); guyuc rounds first - padding * size and
// last + padding * size towards zero. Both clamp to the image, so that the last position is outside
// the box where the padding is 0.
WSDAN_HOST_DEVICE Interval
padded_interval(int64_t first, int64_t last, int64_t size, double padding, BoxRule rule) {
    Interval side{};
    const double pad = padding * static_cast<double>(size);
    if (rule == BoxRule::paper) {
        side.start = first - static_cast<int64_t>(pad);
        side.end = last + static_cast<int64_t>(pad);
    } else {
        side.start = static_cast<int64_t>(static_cast<double>(first) - pad);
        side.end = static_cast<int64_t>(static_cast<double>(last) + pad);
    }
    side.start = side.start > 0 ? side.start : 0;
    side.end = side.end < size ? side.end : size;
    side.end = side.end > side.start ? side.end : side.start + 1;
    return side;
}

// The part of start..end inside an axis of `size` pixels, at least one pixel long.
WSDAN_HOST_DEVICE Interval inside(int64_t start, int64_t end, int64_t size) {
    start = start < 0 ? 0 : start < size - 1 ? start : size - 1;
    end = end < size ? end : size;
    return {start, end > start ? end : start + 1};
}

// A box moved inside its image and at least one pixel wide: x1 y1 x2 y2, half-open.
struct Box {
    int64_t left, top, right, bottom;
    WSDAN_HOST_DEVICE int64_t width() const {
        return right - left;
    }
    WSDAN_HOST_DEVICE int64_t height() const {
        return bottom - top;
    }
};

WSDAN_HOST_DEVICE Box box_inside(const int32_t* box, int64_t height, int64_t width) {
    const Interval columns = inside(box[0], box[2], width), rows = inside(box[1], box[3], height);
    return {columns.start, rows.start, columns.end, rows.end};
}

}  // namespace wsdan
