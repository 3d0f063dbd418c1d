#include "crop_resize.cuh"
#include "crop_resize_backward.cuh"
#include "launch/launchers.h"
#include "launch/types.h"
#include "launch/uncrop.h"

namespace wsdan::cuda {

void crop_resize(
    const Launcher& launch, const Array& images, const int32_t* boxes, bool align_corners,
    bool interleaved, const Array& crops
) {
    const int multiprocessors = launch.attribute(cudaDevAttrMultiProcessorCount);
    with_image_type(images.type, launch.op(), [&](auto stored) {
        using S = decltype(stored);
        const auto from = images_of<const S>(images, interleaved);
        const auto to = images_of<S>(crops, interleaved);
        with_count<S>(in_chunks(to), [&](auto count) {
            const int64_t planes = images.size(0) * to.planes;
            const Shares shares = shares_of(to, planes, count, multiprocessors);
            const int blocks = blocks_for(shares, kViewThreads);
            launch(
                crop_resize_kernel<S, count>, planes * blocks, kViewThreads, /*shared=*/0, from,
                boxes, align_corners, to, shares, blocks
            );
        });
    });
}

void crop_resize_backward(
    const Launcher& launch, const Array& grad_crops, const int32_t* boxes, bool align_corners,
    bool interleaved, const Array& grad_images
) {
    with_gradient_type(grad_crops.type, launch.op(), [&](auto stored) {
        using S = decltype(stored);
        const auto from = images_of<const S>(grad_crops, interleaved);
        const auto to = images_of<S>(grad_images, interleaved);
        const Tiles tiles = tiles_of(to);
        launch(
            crop_resize_backward_kernel<S>, grad_crops.size(0) * tiles.blocks(to.planes),
            kUncropThreads, kUncropSums * static_cast<int64_t>(sizeof(Computed<S>)), from, boxes,
            align_corners, to, tiles
        );
    });
}

}  // namespace wsdan::cuda
