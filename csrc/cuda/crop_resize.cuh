// A box of every image, resized (arXiv:1901.09891 section 3.2): a thread goes down a strip of rows
// of the crop and keeps two rows of the box at the crop's width, so a row of the box is read once
// for all the rows of the crop made of it.
//
// Reads the boxes' part of the images and writes B*C*S*T elements, in 16 bytes a thread where their
// layout allows.
#pragma once

#include "../common/bilinear.h"
#include "../common/boxes.h"
#include "images.cuh"

namespace wsdan {

// One thread's share of a plane of a crop.
template <typename S, int count>
class CropShare {
public:
    using T = Computed<S>;

    __device__ CropShare(
        const Images<const S>& images, const Images<S>& crops, const Box& box, bool align_corners,
        int64_t b, int plane, const Share& share
    )
        : images_(images),
          crops_(crops),
          box_(box),
          rows_(static_cast<int>(box.height()), crops.height, align_corners),
          b_(b),
          plane_(plane),
          share_(share) {
        const Axis<T, int> columns(static_cast<int>(box.width()), crops.width, align_corners);
        WSDAN_UNROLL
        for (int i = 0; i < count; ++i) {
            const int element = share.element + i;
            const Tap<T, int> tap = columns.blending_tap(element / images.pixel);
            left_[i] = tap.lower * images.pixel + element % images.pixel;
            right_[i] = tap.upper * images.pixel + element % images.pixel;
            weight_[i] = tap.weight;
        }
    }

    __device__ void make() {
        int held = -1, next = -1;  // the rows of the box in above_ and below_
        for (int y = share_.top; y < share_.bottom; ++y) {
            const Tap<T, int> tap = rows_.blending_tap(y);
            if (tap.lower != held) {
                if (tap.lower == next)
                    copy(below_, above_);
                else
                    widen(tap.lower, above_);
                if (tap.upper == tap.lower)
                    copy(above_, below_);
                else
                    widen(tap.upper, below_);
                held = tap.lower;
                next = tap.upper;
            }
            Chunk<S, count> chunk;
            WSDAN_UNROLL
            for (int i = 0; i < count; ++i)
                chunk.values[i] = narrowed<S>(blend(above_[i], below_[i], tap.weight));
            store_chunk(crops_.row(b_, plane_, y) + share_.element, chunk);
        }
    }

private:
    // Row y of the box at the crop's width.
    __device__ void widen(int y, T* wide) const {
        const S* row = images_.row(b_, plane_, box_.top + y) + box_.left * images_.pixel;
        WSDAN_UNROLL
        for (int i = 0; i < count; ++i)
            wide[i] = blend(widened(row[left_[i]]), widened(row[right_[i]]), weight_[i]);
    }

    static __device__ void copy(const T* from, T* to) {
        WSDAN_UNROLL
        for (int i = 0; i < count; ++i)
            to[i] = from[i];
    }

    const Images<const S>& images_;
    const Images<S>& crops_;
    const Box box_;
    const Axis<T, int> rows_;
    const int64_t b_;
    const int plane_;
    const Share share_;
    int left_[count], right_[count];
    T weight_[count], above_[count], below_[count];
};

// images (B,C,H,W), boxes (B,4) -> crops (B,C,S,T); `blocks` of a plane each.
template <typename S, int count>
__global__ void __launch_bounds__(kViewThreads) crop_resize_kernel(
    Images<const S> images, const int32_t* boxes, bool align_corners, Images<S> crops,
    Shares shares, int blocks
) {
    const int64_t index = int64_t{blockIdx.x % blocks} * kViewThreads + threadIdx.x;
    if (index >= shares.size())
        return;
    const int plane = (blockIdx.x / blocks) % images.planes;
    const int64_t b = blockIdx.x / blocks / images.planes;
    CropShare<S, count> crop(
        images, crops, box_inside(boxes + 4 * b, images.height, images.width), align_corners, b,
        plane, shares.at(static_cast<int>(index))
    );
    crop.make();
}

}  // namespace wsdan
