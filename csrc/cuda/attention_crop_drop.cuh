// Both training views of an image (arXiv:1901.09891 section 3.2) in two launches. The first looks
// through the maps of both. In the second the blocks that crop an image and those that drop run
// side by side, so that what both read comes from device memory once and from the second-level
// cache the other time.
//
// Reads B*C*H*W elements and writes twice as many.
#pragma once

#include "attention_boxes.cuh"
#include "attention_drop.cuh"
#include "crop_resize.cuh"

namespace wsdan {

// One map an image, and its threshold; `dense` as in load_map.
template <typename M>
struct ViewMaps {
    Maps<M> maps;
    const float *dense, *thresholds;
};

// crop maps -> boxes (B,4), drop maps -> MapCuts; both (B,h,w), a block each.
template <typename M>
__global__ void __launch_bounds__(kBoxThreads) boxes_and_cuts_kernel(
    ViewMaps<M> crop, ViewMaps<M> drop, MapGeometry<float> geometry, double padding, int32_t* boxes,
    MapCuts<float> cuts
) {
    const int64_t batch = gridDim.x / 2, b = blockIdx.x % batch;
    const bool crops = blockIdx.x < batch;
    const ViewMaps<M> from = crops ? crop : drop;
    const ResizedMap<float> map = load_map(from.maps, b, geometry, from.dense);
    const float peak = peak_of(map), threshold = from.thresholds[b];
    if (crops)
        find_box(map, peak, threshold, padding, boxes + 4 * b);
    else
        cut_map(map, peak, threshold, b, cuts);
}

// images (B,C,H,W), boxes (B,4), MapCuts -> crops, drops (B,C,H,W). W: an unsigned integer of an
// element's size. Of an image, `drop_blocks` make the drop and `crop_blocks` each plane of the
// crop.
template <typename S, typename W, int count>
__global__ void __launch_bounds__(kViewThreads) attention_crop_drop_kernel(
    Images<const S> images, const int32_t* boxes, MapCuts<float> maps, MapGeometry<float> geometry,
    Images<S> crops, Images<W> drops, Shares crop_shares, Shares drop_shares, int crop_blocks,
    int drop_blocks
) {
    const int blocks = drop_blocks + crop_blocks * images.planes;
    const int64_t b = blockIdx.x / blocks;
    int block = static_cast<int>(blockIdx.x % blocks);
    if (block < drop_blocks) {
        const int64_t index = int64_t{block} * kViewThreads + threadIdx.x;
        if (index < drop_shares.size())
            drop_share<W, float, count>(
                images.template as<W>(), drops, maps, geometry, b,
                drop_shares.at(static_cast<int>(index))
            );
        return;
    }
    block -= drop_blocks;
    const int64_t index = int64_t{block % crop_blocks} * kViewThreads + threadIdx.x;
    if (index >= crop_shares.size())
        return;
    CropShare<S, count> crop(
        images, crops, box_inside(boxes + 4 * b, images.height, images.width),
        /*align_corners=*/true, b, block / crop_blocks, crop_shares.at(static_cast<int>(index))
    );
    crop.make();
}

}  // namespace wsdan
