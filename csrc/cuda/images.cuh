// Images as rows of memory: C planes of pixels, or one plane of C interleaved values a pixel. How
// the elements of an image are shared out among threads.
#pragma once

#include "device.cuh"

namespace wsdan {

constexpr int kViewThreads = 256;  // of the blocks that crop and drop

// Images (B,C,H,W); strides in elements, that of neighbours in a row is 1.
template <typename S>
struct Images {
    S* data;
    int64_t image_stride, plane_stride, row_stride;
    int planes, height, width, pixel;  // pixel: C where the channels are interleaved, else 1

    __device__ S* row(int64_t b, int plane, int64_t y) const {
        return data + b * image_stride + plane * plane_stride + y * row_stride;
    }
    WSDAN_HOST_DEVICE int row_size() const {
        return width * pixel;
    }
    // The same elements as words of their size.
    template <typename W>
    __device__ Images<const W> as() const {
        static_assert(sizeof(W) == sizeof(S));
        const auto* words = reinterpret_cast<const W*>(data);
        return {words, image_stride, plane_stride, row_stride, planes, height, width, pixel};
    }
};

// A thread's share of a plane: `count` neighbouring elements of each row of a strip of rows.
struct Share {
    int element, top, bottom;  // bottom: half-open
};

// Strips of `strip` rows of an image; `count` divides the row's size.
struct Shares {
    int row_size, rows, strip, count;

    WSDAN_HOST_DEVICE int64_t size() const {
        return int64_t{(rows + strip - 1) / strip} * (row_size / count);
    }
    __device__ Share at(int index) const {
        const int chunks = row_size / count;
        const int top = index / chunks * strip;
        return {(index % chunks) * count, top, top + strip < rows ? top + strip : rows};
    }
};

}  // namespace wsdan
