#include <torch/csrc/stable/library.h>

#include "attention_crop_drop.cuh"
#include "launch/cut_maps.h"
#include "launch/map_launch.h"
#include "launch/views.h"

namespace wsdan {
namespace {

bool same_kind(const Tensor& a, const Tensor& b) {
    return a.scalar_type() == b.scalar_type() && a.size(1) == b.size(1) && a.size(2) == b.size(2);
}

// Boxes and cuts of float32 or half-precision maps of one kind.
void look_through_maps(
    const Launcher& launch, const Tensor& crop_maps, const Tensor& drop_maps,
    const Tensor& crop_thresholds, const Tensor& drop_thresholds,
    const MapGeometry<float>& geometry, double padding, const char* op, Tensor& boxes,
    const MapCuts<float>& cuts
) {
    const MapLaunch<float> crop(launch, crop_maps, geometry, kBoxThreads);
    const MapLaunch<float> drop(launch, drop_maps, geometry, kBoxThreads);
    const Tensor crop_shares = dense_as<float>(crop_thresholds);
    const Tensor drop_shares = dense_as<float>(drop_thresholds);
    with_gradient_type(crop_maps.scalar_type(), op, [&](auto stored) {
        using M = decltype(stored);
        launch(
            boxes_and_cuts_kernel<M>, 2 * crop_maps.size(0), crop.threads, crop.shared,
            ViewMaps<M>{
                maps_of<M>(crop_maps), crop.dense_data(), data_of<const float>(crop_shares)
            },
            ViewMaps<M>{
                maps_of<M>(drop_maps), drop.dense_data(), data_of<const float>(drop_shares)
            },
            geometry, padding, data_of<int32_t>(boxes), cuts
        );
    });
}

// The boxes of the crop's maps, crop_resize by them to the size of the images, and attention_drop.
void attention_crop_drop(
    const Tensor& images, const Tensor& crop_maps, const Tensor& drop_maps,
    const Tensor& crop_thresholds, const Tensor& drop_thresholds, double padding,
    const std::string& rule, bool align_corners, Tensor crops, Tensor drops, Tensor boxes
) {
    constexpr const char* op = "attention_crop_drop";
    const int64_t height = images.size(2), width = images.size(3);
    check_batches(images, crop_maps, crop_thresholds, op);
    check_batches(images, drop_maps, drop_thresholds, op);
    if (!same_kind(crop_maps, drop_maps) || crop_maps.scalar_type() == ScalarType::Double) {
        // Rare: not worth kernels of their own.
        attention_boxes(
            crop_maps, crop_thresholds, height, width, padding, rule, align_corners, boxes
        );
        crop_resize(images, boxes, height, width, /*align_corners=*/true, crops);
        attention_drop(images, drop_maps, drop_thresholds, rule, align_corners, drops);
        return;
    }
    const Launcher launch(op, images);
    const auto geometry = map_geometry<float>(drop_maps, height, width, rule, align_corners, op);
    const Tensor x = laid_out_as(images, crops);
    const bool interleaved = !is_planar(crops);
    const int multiprocessors = launch.attribute(cudaDevAttrMultiProcessorCount);
    const CutMaps<float> cuts(drop_maps);
    look_through_maps(
        launch, crop_maps, drop_maps, crop_thresholds, drop_thresholds, geometry, padding, op,
        boxes, cuts.get()
    );
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
                /*shared=*/0, from, data_of<const int32_t>(boxes), cuts.get(), geometry, crop, drop,
                crop_shares, drop_shares, crop_blocks, drop_blocks
            );
        });
    });
}

STABLE_TORCH_LIBRARY_IMPL(wsdan_native, CUDA, library) {
    library.impl("attention_crop_drop", TORCH_BOX(&attention_crop_drop));
}

}  // namespace
}  // namespace wsdan
