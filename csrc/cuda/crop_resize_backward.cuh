// The gradient of crop_resize to its images: the transposed resampling, gathered. Each element of
// the result is summed by one thread in a fixed order, so the bits are the same every time.
//
// A block makes a tile of columns of the image, row by row: first it sums, for each column of the
// crop that reaches the tile, the rows that reach this one (in shared memory), then each thread
// sums the columns that reach its own. A row of the crop is read twice, once from the cache.
// Reads B*C*S*T elements and writes B*C*H*W.
#pragma once

#include "../common/bilinear.h"
#include "../common/boxes.h"
#include "images.cuh"

namespace wsdan {

constexpr int kUncropThreads = 256;
constexpr int kUncropRows = 8;       // of the image, a block
constexpr int kUncropSums = 2048;    // in shared memory
constexpr int kUncropChannels = 32;  // interleaved ones that a block takes, at most

// Positions of a crop: from `begin` to `end`.
struct Range {
    int begin, end;
};

// The positions of a crop whose taps reach one of the positions first..last of the box.
template <typename T>
__device__ Range reaching(const Axis<T, int>& axis, int first, int last) {
    return {axis.first_reaching(first - 1), axis.first_reaching(last + 1)};
}

// What a block makes: `columns` of `channels` each, from x and channel on, rows top..bottom.
struct Tile {
    int x, columns, channel, channels, top, bottom;
};

template <typename S>
class Uncrop {
public:
    using T = Computed<S>;

    __device__ Uncrop(
        const Images<const S>& crops, const Images<S>& images, const Box& box, bool align_corners,
        int64_t b, int plane, const Tile& tile
    )
        : crops_(crops),
          images_(images),
          box_(box),
          rows_(static_cast<int>(box.height()), crops.height, align_corners),
          columns_(static_cast<int>(box.width()), crops.width, align_corners),
          b_(b),
          plane_(plane),
          tile_(tile),
          sums_(reinterpret_cast<T*>(shared_memory())) {
        const int left = static_cast<int>(box.left), last = static_cast<int>(box.width()) - 1;
        const int begin = tile.x - left, end = begin + tile.columns - 1;
        all_ = {0, 0};
        if (begin <= last && end >= 0)
            all_ = reaching(columns_, begin > 0 ? begin : 0, end < last ? end : last);
        column_ = begin + static_cast<int>(threadIdx.x) / tile.channels;
        channel_ = threadIdx.x % tile.channels;
        element_ = (left + column_) * images.pixel + tile.channel + channel_;
        mine_ = static_cast<int>(threadIdx.x) < tile.columns * tile.channels;
        own_ = {0, 0};
        if (mine_ && column_ >= 0 && column_ <= last)
            own_ = reaching(columns_, column_, column_);
    }

    // What this thread's element of row y of the image has; 0 where it has none.
    __device__ T total(int y) {
        const int row = y - static_cast<int>(box_.top);
        T total = 0;
        if (row >= 0 && row < box_.height()) {
            const Range reached = reaching(rows_, row, row);
            const int step = kUncropSums / tile_.channels;
            for (int from = all_.begin; from < all_.end; from += step) {
                const Range piece{from, from + step < all_.end ? from + step : all_.end};
                sum_rows(row, reached, piece);
                __syncthreads();
                total = add_columns(total, piece);
                __syncthreads();
            }
        }
        return total;
    }

    __device__ void make_row(int y) {
        const T sum = total(y);
        if (mine_)
            images_.row(b_, plane_, y)[element_] = narrowed<S>(sum);
    }

private:
    __device__ void sum_rows(int row, const Range& reached, const Range& piece) {
        const int count = (piece.end - piece.begin) * tile_.channels;
        for (int i = threadIdx.x; i < count; i += blockDim.x) {
            const int column = piece.begin + i / tile_.channels;
            const S* from = crops_.row(b_, plane_, reached.begin) + int64_t{column} * crops_.pixel +
                            tile_.channel + i % tile_.channels;
            T sum = 0;
            for (int s = reached.begin; s < reached.end; ++s, from += crops_.row_stride)
                sum = std::fma(share_of(rows_.tap(s), row), widened(*from), sum);
            sums_[i] = sum;
        }
    }

    __device__ T add_columns(T total, const Range& piece) const {
        const int begin = own_.begin > piece.begin ? own_.begin : piece.begin;
        const int end = own_.end < piece.end ? own_.end : piece.end;
        for (int s = begin; s < end; ++s) {
            const T sum = sums_[(s - piece.begin) * tile_.channels + channel_];
            total = std::fma(share_of(columns_.tap(s), column_), sum, total);
        }
        return total;
    }

    const Images<const S>& crops_;
    const Images<S>& images_;
    const Box box_;
    const Axis<T, int> rows_, columns_;
    const int64_t b_;
    const int plane_;
    const Tile tile_;
    T* sums_;
    Range all_, own_;       // columns of the crop that reach the tile, and this thread's column
    int column_, channel_;  // of the box, and of the tile
    int element_;           // of a row of the image
    bool mine_;             // whether this thread has an element of the tile
};

// What a block makes, and of which plane of which image.
struct Place {
    int64_t b;
    int plane;
    Tile tile;
};

// How the planes of the images are cut into tiles.
struct Tiles {
    int columns, channels;     // of a tile, at most
    int across, groups, down;  // tiles along x, groups of channels, strips of rows

    WSDAN_HOST_DEVICE int64_t blocks(int planes) const {
        return int64_t{planes} * down * groups * across;
    }

    // Of block `index`.
    template <typename S>
    __device__ Place place(unsigned index, const Images<S>& images) const {
        const int x = static_cast<int>(index % across) * columns;
        index /= across;
        const int channel = static_cast<int>(index % groups) * channels;
        index /= groups;
        const int top = static_cast<int>(index % down) * kUncropRows;
        index /= down;
        const int wide = images.width - x, deep = images.pixel - channel;
        const int rows = images.height - top;
        return {
            index / images.planes,
            static_cast<int>(index % images.planes),
            {x, wide < columns ? wide : columns, channel, deep < channels ? deep : channels, top,
             top + (rows < kUncropRows ? rows : kUncropRows)}
        };
    }
};

// grad_crops (B,C,S,T), boxes (B,4) -> grad_images (B,C,H,W).
template <typename S>
__global__ void __launch_bounds__(kUncropThreads) crop_resize_backward_kernel(
    Images<const S> crops, const int32_t* boxes, bool align_corners, Images<S> images, Tiles tiles
) {
    const Place place = tiles.place(blockIdx.x, images);
    const Box box = box_inside(boxes + 4 * place.b, images.height, images.width);
    Uncrop<S> uncrop(crops, images, box, align_corners, place.b, place.plane, place.tile);
    for (int y = place.tile.top; y < place.tile.bottom; ++y)
        uncrop.make_row(y);
}

}  // namespace wsdan
