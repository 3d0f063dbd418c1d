#include <torch/csrc/stable/library.h>

#include "attention_drop.cuh"
#include "launch/cut_maps.h"
#include "launch/map_launch.h"
#include "launch/views.h"

namespace wsdan {
namespace {

// The maps made ready by a launch of their own.
template <typename T>
CutMaps<T> cut_maps(
    const Launcher& launch, const Tensor& maps, const Tensor& thresholds,
    const MapGeometry<T>& geometry, const char* op
) {
    CutMaps<T> result(maps);
    const MapLaunch<T> how(launch, maps, geometry, kCutThreads);
    const Tensor shares = dense_as<T>(thresholds);
    with_map_type(maps.scalar_type(), op, [&](auto stored) {
        using M = decltype(stored);
        if constexpr (std::is_same_v<Computed<M>, T>)
            launch(
                map_cuts_kernel<M, T>, maps.size(0), how.threads, how.shared, maps_of<M>(maps),
                how.dense_data(), data_of<const T>(shares), geometry, result.get()
            );
    });
    return result;
}

}  // namespace

void attention_drop(
    const Tensor& images, const Tensor& maps, const Tensor& thresholds, const std::string& rule,
    bool align_corners, Tensor drops
) {
    constexpr const char* op = "attention_drop";
    check_batches(images, maps, thresholds, op);
    const Launcher launch(op, images);
    const Tensor x = laid_out_as(images, drops);
    const bool interleaved = !is_planar(drops);
    const int multiprocessors = launch.attribute(cudaDevAttrMultiProcessorCount);
    with_computed_type(maps.scalar_type(), [&](auto computed) {
        using T = decltype(computed);
        const auto geometry =
            map_geometry<T>(maps, images.size(2), images.size(3), rule, align_corners, op);
        const CutMaps<T> cuts = cut_maps(launch, maps, thresholds, geometry, op);
        with_image_type(x.scalar_type(), op, [&](auto stored) {
            using W = Word<decltype(stored)>;
            const auto from = images_of<const W>(x, interleaved);
            const auto to = images_of<W>(drops, interleaved);
            with_count<W>(in_chunks(from) && in_chunks(to), [&](auto count) {
                const Shares shares = shares_of(to, x.size(0), count, multiprocessors);
                const int blocks = blocks_for(shares, kViewThreads);
                launch(
                    attention_drop_kernel<W, T, count>, x.size(0) * blocks, kViewThreads,
                    /*shared=*/0, from, to, cuts.get(), geometry, shares, blocks
                );
            });
        });
    });
}

namespace {

STABLE_TORCH_LIBRARY_IMPL(wsdan_native, CUDA, library) {
    library.impl("attention_drop", TORCH_BOX(&attention_drop));
}

}  // namespace
}  // namespace wsdan
