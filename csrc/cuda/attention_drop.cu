#include "attention_drop.cuh"
#include "launch/map_launch.h"

namespace wsdan::cuda {

void attention_drop(
    const Launcher& launch, const Array& images, const SeenMaps& maps, const Resize& resize,
    const CutRoom& room, bool interleaved, const Array& drops
) {
    const int64_t batch = images.size(0);
    const int multiprocessors = launch.attribute(cudaDevAttrMultiProcessorCount);
    // The maps made ready by a launch of their own.
    with_map_type(maps.maps.type, launch.op(), [&](auto stored) {
        using M = decltype(stored);
        using T = Computed<M>;
        const auto geometry = map_geometry<T>(launch, maps.maps, resize);
        const MapLaunch<M, T> how(maps, geometry, kCutThreads);
        launch(
            map_cuts_kernel<M, T>, batch, how.threads, how.shared, how.maps, how.dense,
            how.thresholds, geometry, cuts_in<T>(room)
        );
    });
    with_computed_type(maps.maps.type, [&](auto computed) {
        using T = decltype(computed);
        const auto geometry = map_geometry<T>(launch, maps.maps, resize);
        with_image_type(images.type, launch.op(), [&](auto stored) {
            using W = Word<decltype(stored)>;
            const auto from = images_of<const W>(images, interleaved);
            const auto to = images_of<W>(drops, interleaved);
            with_count<W>(in_chunks(from) && in_chunks(to), [&](auto count) {
                const Shares shares = shares_of(to, batch, count, multiprocessors);
                const int blocks = blocks_for(shares, kViewThreads);
                launch(
                    attention_drop_kernel<W, T, count>, batch * blocks, kViewThreads, /*shared=*/0,
                    from, to, cuts_in<T>(room), geometry, shares, blocks
                );
            });
        });
    });
}

}  // namespace wsdan::cuda
