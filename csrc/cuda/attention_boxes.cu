#include <torch/csrc/stable/library.h>

#include "../torch/attention_boxes.h"
#include "attention_boxes.cuh"
#include "launch/map_launch.h"

namespace wsdan {

// The shapes are checked in Python.
void attention_boxes(
    const Tensor& maps, const Tensor& thresholds, int64_t height, int64_t width, double padding,
    const std::string& rule, bool align_corners, Tensor boxes
) {
    constexpr const char* op = "attention_boxes";
    STD_TORCH_CHECK(
        maps.dim() == 3 && maps.size(0) == thresholds.size(0), op,
        ": maps (B,h,w) and thresholds (B,T) differ in B"
    );
    const Launcher launch(op, maps);
    with_map_type(maps.scalar_type(), op, [&](auto stored) {
        using M = decltype(stored);
        using T = Computed<M>;
        const auto geometry = map_geometry<T>(maps, height, width, rule, align_corners, op);
        const MapLaunch<T> how(launch, maps, geometry, kBoxThreads);
        const Tensor cuts = dense_as<T>(thresholds);
        launch(
            attention_boxes_kernel<M, T>, thresholds.numel(), how.threads, how.shared,
            maps_of<M>(maps), how.dense_data(), data_of<const T>(cuts),
            static_cast<int>(thresholds.dim() == 1 ? 1 : thresholds.size(1)), geometry, padding,
            data_of<int32_t>(boxes)
        );
    });
}

namespace {

STABLE_TORCH_LIBRARY_IMPL(wsdan_native, CUDA, library) {
    library.impl("attention_boxes", TORCH_BOX(&attention_boxes));
}

}  // namespace
}  // namespace wsdan
