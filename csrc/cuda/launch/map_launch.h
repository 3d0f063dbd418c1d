// What the launchers of attention_boxes and of the drops share: where a block keeps its map.
#pragma once

#include <algorithm>
#include <string>

#include "launch.h"
#include "types.h"

namespace wsdan {

template <typename T>
MapGeometry<T> map_geometry(
    const Tensor& maps, int64_t height, int64_t width, const std::string& rule, bool align_corners,
    const char* op
) {
    constexpr int64_t most = std::numeric_limits<int32_t>::max();
    STD_TORCH_CHECK(
        maps.size(1) * maps.size(2) <= most && height <= most - kWarp && width <= most - kWarp &&
            maps.size(1) * (width / kWarp + 1) <= most,
        op, ": maps (B, h, w) or image_size of more than 2^31 elements"
    );
    return {
        {static_cast<int>(maps.size(1)), static_cast<int>(height), align_corners},
        {static_cast<int>(maps.size(2)), static_cast<int>(width), align_corners},
        box_rule(rule)
    };
}

// How a kernel that looks through maps (M stored, T computed) is launched: `dense` holds the values
// where a map is too large for shared memory.
template <typename T>
struct MapLaunch {
    Tensor dense;
    bool in_shared;
    int64_t shared;
    int threads;

    MapLaunch(const Launcher& launch, const Tensor& maps, const MapGeometry<T>& geometry, int most)
        : dense(maps) {
        shared = map_shared_bytes<T>(geometry, /*values_in_shared=*/true);
        in_shared = shared <= launch.attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
        if (!in_shared) {
            dense = dense_as<T>(maps);
            shared = map_shared_bytes<T>(geometry, /*values_in_shared=*/false);
        }
        const int64_t units =
            int64_t{geometry.rows.in} * ((geometry.columns.out + kWarp - 1) / kWarp);
        threads = static_cast<int>(std::clamp<int64_t>(units, 2, most / kWarp)) * kWarp;
    }

    const T* dense_data() const {
        return in_shared ? nullptr : data_of<const T>(dense);
    }
};

}  // namespace wsdan
