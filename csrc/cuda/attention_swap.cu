#include "attention_swap.cuh"
#include "launch/launchers.h"
#include "launch/types.h"
#include "launch/uncrop.h"

namespace wsdan::cuda {
namespace {

Swaps swaps_of(const Chosen& chosen, const Array& images) {
    return {
        chosen.boxes, chosen.partners, images.size(0), static_cast<int>(images.size(2)),
        static_cast<int>(images.size(3))
    };
}

}  // namespace

void attention_swap(
    const Launcher& launch, const Array& images, const Chosen& chosen, bool interleaved,
    const Array& swapped
) {
    const int multiprocessors = launch.attribute(cudaDevAttrMultiProcessorCount);
    with_image_type(images.type, launch.op(), [&](auto stored) {
        using S = decltype(stored);
        const auto from = images_of<const S>(images, interleaved);
        const auto to = images_of<S>(swapped, interleaved);
        with_count<S>(in_chunks(from) && in_chunks(to), [&](auto count) {
            const int64_t planes = images.size(0) * to.planes;
            const Shares shares = shares_of(to, planes, count, multiprocessors);
            const int blocks = blocks_for(shares, kViewThreads);
            launch(
                attention_swap_kernel<S, count>, planes * blocks, kViewThreads, /*shared=*/0, from,
                swaps_of(chosen, images), to, shares, blocks
            );
        });
    });
}

void attention_swap_backward(
    const Launcher& launch, const Array& grad_swapped, const Chosen& chosen, bool interleaved,
    const Array& grad_images
) {
    with_gradient_type(grad_swapped.type, launch.op(), [&](auto stored) {
        using S = decltype(stored);
        const auto from = images_of<const S>(grad_swapped, interleaved);
        const auto to = images_of<S>(grad_images, interleaved);
        const Tiles tiles = tiles_of(to);
        constexpr int64_t sums = kUncropSums + kUncropRows * kUncropThreads;
        launch(
            attention_swap_backward_kernel<S>, grad_swapped.size(0) * tiles.blocks(to.planes),
            kUncropThreads, sums * static_cast<int64_t>(sizeof(Computed<S>)), from,
            swaps_of(chosen, grad_swapped), to, tiles
        );
    });
}

}  // namespace wsdan::cuda
