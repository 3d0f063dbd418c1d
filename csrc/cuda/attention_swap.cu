#include <torch/csrc/stable/library.h>

#include "attention_swap.cuh"
#include "launch/launch.h"
#include "launch/types.h"
#include "launch/uncrop.h"

namespace wsdan {
namespace {

// The tensors that the boxes and partners are read from.
struct Chosen {
    Tensor boxes, partners;

    Chosen(const Tensor& boxes, const Tensor& partners, const Tensor& images)
        : boxes(checked_boxes(boxes, images)), partners(torch::stable::contiguous(partners)) {
        STD_TORCH_CHECK(
            partners.scalar_type() == ScalarType::Long && partners.dim() == 1 &&
                partners.size(0) == images.size(0),
            "attention_swap: partners must be (B,) int64, and B that of the images"
        );
    }

    Swaps of(const Tensor& images) const {
        return {
            data_of<const int32_t>(boxes), data_of<const int64_t>(partners), images.size(0),
            static_cast<int>(images.size(2)), static_cast<int>(images.size(3))
        };
    }
};

// images (B,C,H,W), boxes (B,4) int32, partners (B,) int64 -> swapped (B,C,H,W).
void attention_swap(
    const Tensor& images, const Tensor& boxes, const Tensor& partners, Tensor swapped
) {
    constexpr const char* op = "attention_swap";
    const Launcher launch(op, images);
    const Tensor x = laid_out_as(images, swapped);
    const Chosen chosen(boxes, partners, images);
    const bool interleaved = !is_planar(swapped);
    const int multiprocessors = launch.attribute(cudaDevAttrMultiProcessorCount);
    with_image_type(x.scalar_type(), op, [&](auto stored) {
        using S = decltype(stored);
        const auto from = images_of<const S>(x, interleaved);
        const auto to = images_of<S>(swapped, interleaved);
        with_count<S>(in_chunks(from) && in_chunks(to), [&](auto count) {
            const int64_t planes = x.size(0) * to.planes;
            const Shares shares = shares_of(to, planes, count, multiprocessors);
            const int blocks = blocks_for(shares, kViewThreads);
            launch(
                attention_swap_kernel<S, count>, planes * blocks, kViewThreads, /*shared=*/0, from,
                chosen.of(x), to, shares, blocks
            );
        });
    });
}

// grad_swapped (B,C,H,W), boxes (B,4) int32, partners (B,) int64 -> grad_images (B,C,H,W).
void attention_swap_backward(
    const Tensor& grad_swapped, const Tensor& boxes, const Tensor& partners, Tensor grad_images
) {
    constexpr const char* op = "attention_swap_backward";
    const Launcher launch(op, grad_swapped);
    const Tensor x = laid_out_as(grad_swapped, grad_images);
    const Chosen chosen(boxes, partners, grad_swapped);
    const bool interleaved = !is_planar(grad_images);
    with_gradient_type(x.scalar_type(), op, [&](auto stored) {
        using S = decltype(stored);
        const auto from = images_of<const S>(x, interleaved);
        const auto to = images_of<S>(grad_images, interleaved);
        const Tiles tiles = tiles_of(to);
        constexpr int64_t sums = kUncropSums + kUncropRows * kUncropThreads;
        launch(
            attention_swap_backward_kernel<S>, x.size(0) * tiles.blocks(to.planes), kUncropThreads,
            sums * static_cast<int64_t>(sizeof(Computed<S>)), from, chosen.of(x), to, tiles
        );
    });
}

STABLE_TORCH_LIBRARY_IMPL(wsdan_native, CUDA, library) {
    library.impl("attention_swap", TORCH_BOX(&attention_swap));
    library.impl("attention_swap_backward", TORCH_BOX(&attention_swap_backward));
}

}  // namespace
}  // namespace wsdan
