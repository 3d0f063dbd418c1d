// An attention map at the size of its image, which is never stored: one block looks through it for
// its peak (arXiv:1901.09891 section 3.2: T = threshold * peak), cell by cell, and skips the cells
// that cannot reach what is looked for.
//
// Rounding is that of csrc/cpu/views/resized_map.h: horizontal first.
#pragma once

#include "../common/bilinear.h"
#include "../common/boxes.h"
#include "device.cuh"

namespace wsdan {

// Both axes of a map (h,w) that is resized to (H,W).
template <typename T>
struct MapGeometry {
    Axis<T, int> rows, columns;
    BoxRule rule;
    WSDAN_HOST_DEVICE int size() const {
        return rows.in * columns.in;
    }
};

// Maps (B,h,w); strides in elements.
template <typename M>
struct Maps {
    const M* data;
    int64_t image, row, column;
};

// A block's map, its values dense in shared or, if too large for it, in device memory.
template <typename T>
struct ResizedMap {
    MapGeometry<T> geometry;
    const T* values;   // (h,w)
    const int* bands;  // row r of the map is the lower neighbour of image rows bands[r]..bands[r+1]
    T maximum;         // of the map; 0 for a dead one: a NaN or an infinity, or nothing above 0
};

// Bytes of shared memory that a block needs: `room`, the bands, and the values if they lie there.
template <typename T>
WSDAN_HOST_DEVICE int64_t map_shared_bytes(const MapGeometry<T>& g, bool values_in_shared) {
    const int64_t values = values_in_shared ? g.size() : 0;
    const int64_t room = kWarp * 4 * static_cast<int64_t>(sizeof(int));  // of Extents, or of T
    return room + values * static_cast<int64_t>(sizeof(T)) +
           (g.rows.in + 1) * static_cast<int64_t>(sizeof(int));
}

template <typename T>
__device__ T* reduction_room() {
    static_assert(sizeof(T) <= 4 * sizeof(int));
    return reinterpret_cast<T*>(shared_memory());
}

// Reads image `b` of the maps; all threads of the block call it. `dense` (B,h,w) takes the place of
// shared memory, and is null where the values go there.
template <typename M, typename T>
__device__ ResizedMap<T> load_map(
    const Maps<M>& maps, int64_t b, const MapGeometry<T>& g, const T* dense
) {
    const int size = g.size();
    T* values = reinterpret_cast<T*>(shared_memory() + kWarp * 4 * sizeof(int));
    int* bands = reinterpret_cast<int*>(dense == nullptr ? values + size : values);
    T largest = 0;
    bool finite = true;
    for (int i = threadIdx.x; i < size; i += blockDim.x) {
        const int64_t place =
            b * maps.image + i / g.columns.in * maps.row + i % g.columns.in * maps.column;
        const T value = dense == nullptr ? widened(maps.data[place]) : dense[b * size + i];
        if (dense == nullptr)
            values[i] = value;
        finite = finite && std::isfinite(value);
        largest = largest < value ? value : largest;
    }
    for (int y = threadIdx.x; y < g.rows.out; y += blockDim.x) {
        const int lower = g.rows.tap(y).lower;
        for (int r = y == 0 ? 0 : g.rows.tap(y - 1).lower + 1; r <= lower; ++r)
            bands[r] = y;
        for (int r = lower + 1; y == g.rows.out - 1 && r <= g.rows.in; ++r)
            bands[r] = g.rows.out;
    }
    // Infinity stands for what is not finite.
    constexpr T infinity = std::numeric_limits<T>::infinity();
    largest = block_maximum(finite ? largest : infinity, reduction_room<T>());
    return {
        g, dense == nullptr ? values : dense + b * size, bands, largest < infinity ? largest : 0
    };
}

// Calls visitor.see(y, x, value) in the cells of the resized map that may reach `floor` and that
// the visitor wants. A warp takes 32 columns between two rows of the map at a time.
template <typename T, typename Visitor>
__device__ void look_through(const ResizedMap<T>& map, T floor, Visitor& visitor) {
    const Axis<T, int>&rows = map.geometry.rows, &columns = map.geometry.columns;
    const int strips = (columns.out + kWarp - 1) / kWarp, warps = blockDim.x / kWarp;
    for (int unit = threadIdx.x / kWarp; unit < strips * rows.in; unit += warps) {
        const int r = unit / strips, x = (unit % strips) * kWarp + threadIdx.x % kWarp;
        const int begin = map.bands[r], end = map.bands[r + 1];
        if (begin == end || x >= columns.out || !visitor.wants(x, begin, end))
            continue;
        const Tap<T, int> tap = columns.tap(x);
        const T* upper_row = map.values + r * columns.in;
        const T* lower_row = r + 1 < rows.in ? upper_row + columns.in : upper_row;
        const T above = blend(upper_row[tap.lower], upper_row[tap.upper], tap.weight);
        const T below = blend(lower_row[tap.lower], lower_row[tap.upper], tap.weight);
        if (blend_bound(above, below) >= floor)
            visitor.see(x, begin, end, [&](int y) {
                return blend(above, below, rows.tap(y).weight);
            });
    }
}

// The largest value, of the first and last row of each cell or of all.
template <typename T>
struct PeakVisitor {
    bool all;
    T best;

    __device__ bool wants(int, int, int) const {
        return true;
    }

    template <typename Value>
    __device__ void see(int, int begin, int end, const Value& value) {
        const int step = all ? 1 : end - begin > 1 ? end - begin - 1 : 1;
        for (int y = begin; y < end; y += step) {
            const T here = value(y);
            best = best < here ? here : best;
        }
    }
};

// The peak that the rule takes the threshold of, the same in all threads of the block; 0 for a dead
// map. The edges of the cells, next to the map's own values, give most of it: with that bound few
// cells are left to look through.
template <typename T>
__device__ T peak_of(const ResizedMap<T>& map) {
    if (map.geometry.rule == BoxRule::guyuc || !(map.maximum > 0))
        return map.maximum;
    PeakVisitor<T> visitor{false, 0};
    look_through(map, T(0), visitor);
    visitor.best = block_maximum(visitor.best, reduction_room<T>());
    visitor.all = true;
    look_through(map, visitor.best, visitor);
    return block_maximum(visitor.best, reduction_room<T>());
}

}  // namespace wsdan
