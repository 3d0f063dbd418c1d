#include <torch/csrc/stable/library.h>

#include <string>

#include "crop_resize.cuh"
#include "crop_resize_backward.cuh"
#include "launch/launch.h"
#include "launch/types.h"
#include "launch/uncrop.h"
#include "launch/views.h"

namespace wsdan {

void crop_resize(
    const Tensor& images, const Tensor& boxes, int64_t /*height*/, int64_t /*width*/,
    bool align_corners, Tensor crops
) {
    constexpr const char* op = "crop_resize";
    const Launcher launch(op, images);
    const Tensor x = laid_out_as(images, crops), corners = checked_boxes(boxes, images);
    const bool interleaved = !is_planar(crops);
    const int multiprocessors = launch.attribute(cudaDevAttrMultiProcessorCount);
    with_image_type(x.scalar_type(), op, [&](auto stored) {
        using S = decltype(stored);
        const auto from = images_of<const S>(x, interleaved);
        const auto to = images_of<S>(crops, interleaved);
        with_count<S>(in_chunks(to), [&](auto count) {
            const int64_t planes = x.size(0) * to.planes;
            const Shares shares = shares_of(to, planes, count, multiprocessors);
            const int blocks = blocks_for(shares, kViewThreads);
            launch(
                crop_resize_kernel<S, count>, planes * blocks, kViewThreads, /*shared=*/0, from,
                data_of<const int32_t>(corners), align_corners, to, shares, blocks
            );
        });
    });
}

namespace {

// grad_crops (B,C,S,T), boxes (B,4) int32 -> grad_images (B,C,H,W).
void crop_resize_backward(
    const Tensor& grad_crops, const Tensor& boxes, int64_t /*height*/, int64_t /*width*/,
    bool align_corners, Tensor grad_images
) {
    constexpr const char* op = "crop_resize_backward";
    const Launcher launch(op, grad_crops);
    const Tensor x = laid_out_as(grad_crops, grad_images);
    const Tensor corners = checked_boxes(boxes, grad_crops);
    const bool interleaved = !is_planar(grad_images);
    with_gradient_type(x.scalar_type(), op, [&](auto stored) {
        using S = decltype(stored);
        const auto from = images_of<const S>(x, interleaved);
        const auto to = images_of<S>(grad_images, interleaved);
        const Tiles tiles = tiles_of(to);
        launch(
            crop_resize_backward_kernel<S>, x.size(0) * tiles.blocks(to.planes), kUncropThreads,
            kUncropSums * static_cast<int64_t>(sizeof(Computed<S>)), from,
            data_of<const int32_t>(corners), align_corners, to, tiles
        );
    });
}

STABLE_TORCH_LIBRARY_IMPL(wsdan_native, CUDA, library) {
    library.impl("crop_resize", TORCH_BOX(&crop_resize));
    library.impl("crop_resize_backward", TORCH_BOX(&crop_resize_backward));
}

}  // namespace
}  // namespace wsdan
