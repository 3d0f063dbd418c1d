// What the launchers of attention_boxes and of the drops share: how a block looks through its map.
#pragma once

#include <algorithm>

#include "../attention_drop.cuh"
#include "launchers.h"
#include "types.h"

namespace wsdan::cuda {

template <typename T>
MapGeometry<T> map_geometry(const Launcher& launch, const Array& maps, const Resize& resize) {
    constexpr int64_t most = std::numeric_limits<int32_t>::max();
    const auto [height, width, rule, align_corners] = resize;
    STD_TORCH_CHECK(
        maps.size(1) * maps.size(2) <= most && height <= most - kWarp && width <= most - kWarp &&
            maps.size(1) * (width / kWarp + 1) <= most,
        launch.op(), ": maps (B, h, w) or image_size of more than 2^31 elements"
    );
    return {
        {static_cast<int>(maps.size(1)), static_cast<int>(height), align_corners},
        {static_cast<int>(maps.size(2)), static_cast<int>(width), align_corners},
        rule
    };
}

// The arguments of a kernel that looks through maps (M stored, T computed), and how it is launched.
template <typename M, typename T>
struct MapLaunch {
    Maps<M> maps;
    const T* dense;
    const T* thresholds;
    int64_t shared;
    int threads;

    MapLaunch(const SeenMaps& seen, const MapGeometry<T>& geometry, int most)
        : maps{
              data_of<const M>(seen.maps), seen.maps.stride(0), seen.maps.stride(1),
              seen.maps.stride(2)
          },
          dense(static_cast<const T*>(seen.dense)),
          thresholds(static_cast<const T*>(seen.thresholds)),
          shared(map_shared_bytes<T>(geometry, /*values_in_shared=*/dense == nullptr)) {
        const int64_t units =
            int64_t{geometry.rows.in} * ((geometry.columns.out + kWarp - 1) / kWarp);
        threads = static_cast<int>(std::clamp<int64_t>(units, 2, most / kWarp)) * kWarp;
    }
};

template <typename T>
MapCuts<T> cuts_in(const CutRoom& room) {
    return {static_cast<T*>(room.values), static_cast<T*>(room.cuts)};
}

}  // namespace wsdan::cuda
