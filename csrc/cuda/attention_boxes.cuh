// Attention map to bounding box (arXiv:1901.09891 section 3.2-3.3): up = the map resized to the
// image, T = threshold * peak; the box spans the rows and columns where up >= T, padded.
//
// One block a box: reads h*w values, writes 16 bytes.
#pragma once

#include "resized_map.cuh"

namespace wsdan {

constexpr int kBoxThreads = 1024;  // at most

// The rows and columns seen so far, each end included; none if top > bottom.
struct Extent {
    int top, left, bottom, right;
};

template <typename T>
struct ExtentVisitor {
    T cut;
    Extent seen;

    // Whether a cell may change anything.
    __device__ bool wants(int x, int begin, int end) const {
        return x < seen.left || x > seen.right || begin < seen.top || end - 1 > seen.bottom;
    }

    template <typename Value>
    __device__ void see(int x, int begin, int end, const Value& value) {
        int first = begin, last = end - 1;
        while (first < end && !(value(first) >= cut))
            ++first;
        if (first == end)
            return;
        while (!(value(last) >= cut))
            --last;
        seen.top = first < seen.top ? first : seen.top;
        seen.bottom = last > seen.bottom ? last : seen.bottom;
        seen.left = x < seen.left ? x : seen.left;
        seen.right = x > seen.right ? x : seen.right;
    }
};

__device__ inline Extent block_extent(Extent own) {
    return combined(
        own, reduction_room<Extent>(),
        [](const Extent& e, int distance) {
            return Extent{
                __shfl_xor_sync(kAllLanes, e.top, distance),
                __shfl_xor_sync(kAllLanes, e.left, distance),
                __shfl_xor_sync(kAllLanes, e.bottom, distance),
                __shfl_xor_sync(kAllLanes, e.right, distance)
            };
        },
        [](const Extent& a, const Extent& b) {
            return Extent{
                a.top < b.top ? a.top : b.top, a.left < b.left ? a.left : b.left,
                a.bottom > b.bottom ? a.bottom : b.bottom, a.right > b.right ? a.right : b.right
            };
        }
    );
}

// The box, x1 y1 x2 y2, of a block's map; all its threads call it.
template <typename T>
__device__ void find_box(
    const ResizedMap<T>& map, T peak, T threshold, double padding, int32_t* box
) {
    const MapGeometry<T>& geometry = map.geometry;
    const int height = geometry.rows.out, width = geometry.columns.out;
    ExtentVisitor<T> visitor{threshold * peak, {height, width, -1, -1}};
    if (peak > 0)
        look_through(map, visitor.cut, visitor);
    const Extent seen = block_extent(visitor.seen);
    if (threadIdx.x != 0)
        return;
    Interval rows{0, height}, columns{0, width};
    if (seen.top <= seen.bottom) {
        rows = padded_interval(seen.top, seen.bottom, height, padding, geometry.rule);
        columns = padded_interval(seen.left, seen.right, width, padding, geometry.rule);
    }
    box[0] = static_cast<int32_t>(columns.start);
    box[1] = static_cast<int32_t>(rows.start);
    box[2] = static_cast<int32_t>(columns.end);
    box[3] = static_cast<int32_t>(rows.end);
}

// maps (B,h,w), thresholds (B,T) -> boxes (B,T,4) int32; block b*T + t makes one.
template <typename M, typename T>
__global__ void __launch_bounds__(kBoxThreads) attention_boxes_kernel(
    Maps<M> maps, const T* dense, const T* thresholds, int count, MapGeometry<T> geometry,
    double padding, int32_t* boxes
) {
    const int64_t b = blockIdx.x / count;
    const ResizedMap<T> map = load_map(maps, b, geometry, dense);
    find_box(map, peak_of(map), thresholds[blockIdx.x], padding, boxes + int64_t{blockIdx.x} * 4);
}

}  // namespace wsdan
