#include "attention_crop_drop.cuh"
#include "launch/map_launch.h"

namespace wsdan::cuda {
namespace {

template <typename M>
ViewMaps<M> view_maps(const MapLaunch<M, float>& how) {
    return {how.maps, how.dense, how.thresholds};
}

}  // namespace

void attention_crop_drop(
    const Launcher& launch, const Array& images, const SeenMaps& crop_maps,
    const SeenMaps& drop_maps, const Resize& resize, double padding, const CutRoom& room,
    bool interleaved, const Array& crops, const Array& drops, int32_t* boxes
) {
    const int64_t batch = images.size(0);
    const int multiprocessors = launch.attribute(cudaDevAttrMultiProcessorCount);
    const auto geometry = map_geometry<float>(launch, drop_maps.maps, resize);
    const MapCuts<float> cuts = cuts_in<float>(room);
    with_gradient_type(crop_maps.maps.type, launch.op(), [&](auto stored) {
        using M = decltype(stored);
        const MapLaunch<M, float> crop(crop_maps, geometry, kBoxThreads);
        const MapLaunch<M, float> drop(drop_maps, geometry, kBoxThreads);
        launch(
            boxes_and_cuts_kernel<M>, 2 * batch, crop.threads, crop.shared, view_maps(crop),
            view_maps(drop), geometry, padding, boxes, cuts
        );
    });
    with_image_type(images.type, launch.op(), [&](auto stored) {
        using S = decltype(stored);
        using W = Word<S>;
        const auto from = images_of<const S>(images, interleaved);
        const auto crop = images_of<S>(crops, interleaved);
        const auto drop = images_of<W>(drops, interleaved);
        const bool chunks = in_chunks(from) && in_chunks(crop) && in_chunks(drop);
        with_count<S>(chunks, [&](auto count) {
            const int64_t planes = batch * crop.planes;
            const Shares crop_shares = shares_of(crop, planes, count, multiprocessors);
            const Shares drop_shares = shares_of(drop, batch, count, multiprocessors);
            const int crop_blocks = blocks_for(crop_shares, kViewThreads);
            const int drop_blocks = blocks_for(drop_shares, kViewThreads);
            launch(
                attention_crop_drop_kernel<S, W, count>,
                batch * (drop_blocks + int64_t{crop_blocks} * crop.planes), kViewThreads,
                /*shared=*/0, from, boxes, cuts, geometry, crop, drop, crop_shares, drop_shares,
                crop_blocks, drop_blocks
            );
        });
    });
}

}  // namespace wsdan::cuda
