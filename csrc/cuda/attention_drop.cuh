// Erasing what a map attends to (arXiv:1901.09891 section 3.2, eq. 7-8): image where up < T, 0
// elsewhere, bit by bit. Two launches: `map_cuts_kernel` finds T once an image,
// `attention_drop_kernel` reads and writes the images once, in 16 bytes a thread where their layout
// allows.
#pragma once

#include "images.cuh"
#include "resized_map.cuh"

namespace wsdan {

constexpr int kCutThreads = 512;  // at most
constexpr int kDropLoads = 4;     // of a thread, on their way at once

// Blocks that ptxas must leave room for on a multiprocessor, 0 for its own choice: with float64
// maps and 8 bytes a thread, that spills.
template <typename T>
constexpr int kDropBlocks = sizeof(T) == 8 ? 1 : 0;

// What the drop reads of the maps: (B,h,w) values and T of each image, NaN for a dead map: no
// value, infinity neither, reaches that.
template <typename T>
struct MapCuts {
    T* values;
    T* cuts;
};

// A block's map, of image `b`, as what the drop reads of it; all its threads call it.
template <typename T>
__device__ void cut_map(
    const ResizedMap<T>& map, T peak, T threshold, int64_t b, const MapCuts<T>& result
) {
    const int size = map.geometry.size();
    for (int i = threadIdx.x; i < size; i += blockDim.x)
        result.values[b * size + i] = map.values[i];
    if (threadIdx.x == 0)
        result.cuts[b] = peak > 0 ? threshold * peak : std::numeric_limits<T>::quiet_NaN();
}

// maps (B,h,w), thresholds (B,) -> MapCuts; one block an image.
template <typename M, typename T>
__global__ void __launch_bounds__(kCutThreads) map_cuts_kernel(
    Maps<M> maps, const T* dense, const T* thresholds, MapGeometry<T> geometry, MapCuts<T> result
) {
    const int64_t b = blockIdx.x;
    const ResizedMap<T> map = load_map(maps, b, geometry, dense);
    cut_map(map, peak_of(map), thresholds[b], b, result);
}

// The resized map at `count` neighbouring elements of a row, from one image row to the next.
template <typename T, int count>
class MapRow {
public:
    __device__ MapRow(const T* map, const MapGeometry<T>& g, int element, int pixel)
        : map_(map), rows_(g.rows), columns_(g.columns), element_(element), pixel_(pixel) {}

    __device__ void move_to(int y) {
        const Tap<T, int> tap = rows_.tap(y);
        weight_ = tap.weight;
        if (tap.lower == held_)
            return;
        const T* above = map_ + tap.lower * columns_.in;
        const T* below = map_ + tap.upper * columns_.in;
        WSDAN_UNROLL
        for (int i = 0; i < count; ++i) {
            const Tap<T, int> across = columns_.tap((element_ + i) / pixel_);
            above_[i] = blend(above[across.lower], above[across.upper], across.weight);
            below_[i] = blend(below[across.lower], below[across.upper], across.weight);
        }
        held_ = tap.lower;
    }

    __device__ T operator[](int i) const {
        return blend(above_[i], below_[i], weight_);
    }

private:
    const T* map_;
    const Axis<T, int>&rows_, &columns_;
    const int element_, pixel_;
    int held_ = -1;
    T weight_ = 0, above_[count] = {}, below_[count] = {};
};

// One thread's share of an image, in all its planes, several loads at a time on their way. W: an
// unsigned integer of an element's size.
template <typename W, typename T, int count>
__device__ void drop_share(
    const Images<const W>& images, const Images<W>& drops, const MapCuts<T>& maps,
    const MapGeometry<T>& geometry, int64_t b, const Share& share
) {
    const T cut = maps.cuts[b];
    const T* values = maps.values + b * geometry.size();
    MapRow<T, count> map(values, geometry, share.element, images.pixel);
    int y = share.top, plane = 0;
    while (y < share.bottom) {
        Chunk<W, count> chunks[kDropLoads];
        int rows[kDropLoads], planes[kDropLoads];
        WSDAN_UNROLL
        for (int k = 0; k < kDropLoads; ++k) {
            rows[k] = y;
            planes[k] = plane;
            if (y < share.bottom)
                chunks[k] = load_chunk<W, count>(images.row(b, plane, y) + share.element);
            if (++plane == images.planes) {
                plane = 0;
                ++y;
            }
        }
        WSDAN_UNROLL
        for (int k = 0; k < kDropLoads; ++k) {
            if (rows[k] >= share.bottom)
                break;
            map.move_to(rows[k]);
            WSDAN_UNROLL
            for (int i = 0; i < count; ++i)
                chunks[k].values[i] = map[i] >= cut ? W(0) : chunks[k].values[i];
            store_chunk(drops.row(b, planes[k], rows[k]) + share.element, chunks[k]);
        }
    }
}

// images (B,C,H,W), MapCuts -> drops (B,C,H,W); `blocks` of an image each.
template <typename W, typename T, int count>
__global__ void __launch_bounds__(kViewThreads, kDropBlocks<T>) attention_drop_kernel(
    Images<const W> images, Images<W> drops, MapCuts<T> maps, MapGeometry<T> geometry,
    Shares shares, int blocks
) {
    const int64_t index = int64_t{blockIdx.x % blocks} * kViewThreads + threadIdx.x;
    if (index < shares.size())
        drop_share<W, T, count>(
            images, drops, maps, geometry, blockIdx.x / blocks, shares.at(static_cast<int>(index))
        );
}

}  // namespace wsdan
