// CALMix's view (arXiv:2605.18700), and its gradient: in the box of each image the contents of its
// partner's box, resized to it, and the image around it. One launch for the batch each.
//
// The forward reads the images outside and the partners' boxes inside of the boxes, and writes
// B*C*H*W elements, in 16 bytes a thread where their layout allows: a thread goes down a strip of
// rows and keeps two rows of the partner's box at the width of its own. The gradient is gathered as
// that of crop_resize: each element is summed by one thread in the order of the images.
#pragma once

#include "crop_resize_backward.cuh"

namespace wsdan {

// Boxes (B,4) and partners (B,) of images of height x width.
struct Swaps {
    const int32_t* boxes;
    const int64_t* partners;
    int64_t batch;
    int height, width;

    __device__ Box box(int64_t b) const {
        return box_inside(boxes + 4 * b, height, width);
    }
    // Out of range, which the host cannot see without waiting, an image keeps its own.
    __device__ int64_t partner(int64_t b) const {
        const int64_t p = partners[b];
        return p >= 0 && p < batch ? p : b;
    }
};

// One thread's share of a plane.
template <typename S, int count>
class SwapShare {
public:
    using T = Computed<S>;

    __device__ SwapShare(
        const Images<const S>& images, const Images<S>& swapped, const Swaps& swaps, int64_t b,
        int plane, const Share& share
    )
        : images_(images),
          swapped_(swapped),
          b_(b),
          partner_(swaps.partner(b)),
          source_(swaps.box(partner_)),
          top_(0),
          height_(0),
          plane_(plane),
          share_(share) {
        if (partner_ == b)
            return;
        const Box box = swaps.box(b);
        const int left = static_cast<int>(box.left), width = static_cast<int>(box.width());
        top_ = static_cast<int>(box.top);
        height_ = static_cast<int>(box.height());
        const Axis<T, int> columns(static_cast<int>(source_.width()), width, true);
        WSDAN_UNROLL
        for (int i = 0; i < count; ++i) {
            const int element = share.element + i;
            const int column = element / images.pixel - left;
            const bool inside = column >= 0 && column < width;
            const Tap<T, int> tap = columns.blending_tap(inside ? column : 0);
            left_[i] = tap.lower * images.pixel + element % images.pixel;
            right_[i] = tap.upper * images.pixel + element % images.pixel;
            weight_[i] = tap.weight;
            inside_ |= (inside ? 1u : 0u) << i;
        }
    }

    __device__ void make() {
        constexpr unsigned all = (1u << count) - 1;
        const Axis<T, int> rows(static_cast<int>(source_.height()), height_, true);
        int held = -1, next = -1;  // the rows of the partner's box in above_ and below_
        for (int y = share_.top; y < share_.bottom; ++y) {
            const int row = y - top_;
            const bool changed = inside_ != 0 && row >= 0 && row < height_;
            Chunk<S, count> chunk{};
            if (!changed || inside_ != all)
                chunk = load_chunk<S, count>(images_.row(b_, plane_, y) + share_.element);
            if (changed) {
                const Tap<T, int> tap = rows.blending_tap(row);
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
                WSDAN_UNROLL
                for (int i = 0; i < count; ++i)
                    if (inside_ >> i & 1)
                        chunk.values[i] = narrowed<S>(blend(above_[i], below_[i], tap.weight));
            }
            store_chunk(swapped_.row(b_, plane_, y) + share_.element, chunk);
        }
    }

private:
    // Row y of the partner's box at the width of the image's own.
    __device__ void widen(int y, T* wide) const {
        const S* row =
            images_.row(partner_, plane_, source_.top + y) + source_.left * images_.pixel;
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
    const Images<S>& swapped_;
    const int64_t b_, partner_;
    const Box source_;
    int top_, height_;  // of the image's own box; a height of 0 where nothing changes
    const int plane_;
    const Share share_;
    unsigned inside_ = 0;  // which of the elements lie within the box's columns
    int left_[count] = {}, right_[count] = {};
    T weight_[count] = {}, above_[count] = {}, below_[count] = {};
};

// images (B,C,H,W) -> swapped (B,C,H,W); `blocks` of a plane each.
template <typename S, int count>
__global__ void __launch_bounds__(kViewThreads) attention_swap_kernel(
    Images<const S> images, Swaps swaps, Images<S> swapped, Shares shares, int blocks
) {
    const int64_t index = int64_t{blockIdx.x % blocks} * kViewThreads + threadIdx.x;
    if (index >= shares.size())
        return;
    const int plane = (blockIdx.x / blocks) % images.planes;
    const int64_t b = blockIdx.x / blocks / images.planes;
    SwapShare<S, count> swap(images, swapped, swaps, b, plane, shares.at(static_cast<int>(index)));
    swap.make();
}

// The part of image b inside a box, as an image of its own.
template <typename S>
__device__ Images<const S> inside_box(const Images<const S>& images, int64_t b, const Box& box) {
    return {
        images.row(b, 0, box.top) + box.left * images.pixel,
        0,
        images.plane_stride,
        images.row_stride,
        images.planes,
        static_cast<int>(box.height()),
        static_cast<int>(box.width()),
        images.pixel
    };
}

// A thread's sums for the rows of a tile, in shared memory after those of Uncrop.
template <typename T>
__device__ T& row_total(int row) {
    T* totals = reinterpret_cast<T*>(shared_memory()) + kUncropSums;
    return totals[row * kUncropThreads + static_cast<int>(threadIdx.x)];
}

// grad_swapped (B,C,H,W) -> grad_images (B,C,H,W). Two blocks a multiprocessor, asked for by
// number: left to itself ptxas keeps to 40 registers for the sake of more, and spills.
template <typename S>
__global__ void __launch_bounds__(kUncropThreads, 2) attention_swap_backward_kernel(
    Images<const S> grads, Swaps swaps, Images<S> images, Tiles tiles
) {
    using T = Computed<S>;
    const Place place = tiles.place(blockIdx.x, images);
    const Tile& tile = place.tile;
    const int64_t p = place.b;
    const Box box = swaps.box(p);
    const int across = static_cast<int>(threadIdx.x) / tile.channels;
    const int element = (tile.x + across) * images.pixel + tile.channel +
                        static_cast<int>(threadIdx.x) % tile.channels;
    const bool mine = across < tile.columns;
    const bool beside = tile.x + across < box.left || tile.x + across >= box.right;
    const bool kept = swaps.partner(p) == p || beside;
    for (int y = tile.top; y < tile.bottom; ++y) {
        const bool own = mine && (kept || y < box.top || y >= box.bottom);
        row_total<T>(y - tile.top) = own ? widened(grads.row(p, place.plane, y)[element]) : T(0);
    }
    for (int64_t b = 0; b < swaps.batch; ++b) {
        if (b == p || swaps.partner(b) != p)
            continue;
        const Images<const S> patch = inside_box(grads, b, swaps.box(b));
        Uncrop<S> uncrop(patch, images, box, /*align_corners=*/true, p, place.plane, tile);
        for (int y = tile.top; y < tile.bottom; ++y)
            row_total<T>(y - tile.top) += uncrop.total(y);
    }
    if (mine)
        for (int y = tile.top; y < tile.bottom; ++y)
            images.row(p, place.plane, y)[element] = narrowed<S>(row_total<T>(y - tile.top));
}

}  // namespace wsdan
