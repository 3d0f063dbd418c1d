#include <torch/csrc/stable/library.h>

#include "attention_crop_drop.cuh"
#include "launch/cut_maps.h"
#include "launch/views.h"

namespace wsdan {
namespace {

// crop_resize to the size of the images, and attention_drop, of the same images.
void attention_crop_drop(
    const Tensor& images, const Tensor& boxes, const Tensor& maps, const Tensor& thresholds,
    const std::string& rule, bool align_corners, Tensor crops, Tensor drops
) {
    constexpr const char* op = "attention_crop_drop";
    check_batches(images, maps, thresholds, op);
    if (maps.scalar_type() == ScalarType::Double) {  // rare: not worth kernels of its own
        crop_resize(images, boxes, images.size(2), images.size(3), /*align_corners=*/true, crops);
        attention_drop(images, maps, thresholds, rule, align_corners, drops);
        return;
    }
    const Launcher launch(op, images);
    const auto geometry =
        map_geometry<float>(maps, images.size(2), images.size(3), rule, align_corners, op);
    const Tensor x = laid_out_as(images, crops), corners = checked_boxes(boxes, images);
    const bool interleaved = !is_planar(crops);
    const int multiprocessors = launch.attribute(cudaDevAttrMultiProcessorCount);
    const CutMaps<float> cuts(launch, maps, thresholds, geometry, op);
    with_image_type(x.scalar_type(), op, [&](auto stored) {
        using S = decltype(stored);
        using W = Word<S>;
        const auto from = images_of<const S>(x, interleaved);
        const auto crop = images_of<S>(crops, interleaved);
        const auto drop = images_of<W>(drops, interleaved);
        const bool chunks = in_chunks(from) && in_chunks(crop) && in_chunks(drop);
        with_count<S>(chunks, [&](auto count) {
            const int64_t batch = x.size(0), planes = batch * crop.planes;
            const Shares crop_shares = shares_of(crop, planes, count, multiprocessors);
            const Shares drop_shares = shares_of(drop, batch, count, multiprocessors);
            const int crop_blocks = blocks_for(crop_shares, kViewThreads);
            const int drop_blocks = blocks_for(drop_shares, kViewThreads);
            launch(
                attention_crop_drop_kernel<S, W, count>,
                batch * (drop_blocks + int64_t{crop_blocks} * crop.planes), kViewThreads,
                /*shared=*/0, from, data_of<const int32_t>(corners), cuts.get(), geometry, crop,
                drop, crop_shares, drop_shares, crop_blocks, drop_blocks
            );
        });
    });
}

STABLE_TORCH_LIBRARY_IMPL(wsdan_native, CUDA, library) {
    library.impl("attention_crop_drop", TORCH_BOX(&attention_crop_drop));
}

}  // namespace
}  // namespace wsdan
