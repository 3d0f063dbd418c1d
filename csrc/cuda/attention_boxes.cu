#include "attention_boxes.cuh"
#include "launch/map_launch.h"

namespace wsdan::cuda {

bool has_room(const Launcher& launch, const Array& maps, const Resize& resize) {
    bool room = false;
    with_computed_type(maps.type, [&](auto computed) {
        const auto geometry = map_geometry<decltype(computed)>(launch, maps, resize);
        room = map_shared_bytes(geometry, /*values_in_shared=*/true) <=
               launch.attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
    });
    return room;
}

void attention_boxes(
    const Launcher& launch, const SeenMaps& maps, int count, const Resize& resize, double padding,
    int32_t* boxes
) {
    with_map_type(maps.maps.type, launch.op(), [&](auto stored) {
        using M = decltype(stored);
        using T = Computed<M>;
        const auto geometry = map_geometry<T>(launch, maps.maps, resize);
        const MapLaunch<M, T> how(maps, geometry, kBoxThreads);
        launch(
            attention_boxes_kernel<M, T>, maps.maps.size(0) * count, how.threads, how.shared,
            how.maps, how.dense, how.thresholds, count, geometry, padding, boxes
        );
    });
}

}  // namespace wsdan::cuda
