// The maps of a drop, made ready by a launch of their own: dense values, and T for each image.
#pragma once

#include <torch/csrc/stable/ops.h>

#include "../attention_drop.cuh"
#include "map_launch.h"

namespace wsdan {

template <typename T>
class CutMaps {
public:
    // maps (B,h,w), thresholds (B,)
    CutMaps(
        const Launcher& launch, const Tensor& maps, const Tensor& thresholds,
        const MapGeometry<T>& geometry, const char* op
    )
        : values_(scratch(maps, maps.numel())), cuts_(scratch(maps, maps.size(0))) {
        const MapLaunch<T> how(launch, maps, geometry, kCutThreads);
        const Tensor shares = dense_as<T>(thresholds);
        with_map_type(maps.scalar_type(), op, [&](auto stored) {
            using M = decltype(stored);
            if constexpr (std::is_same_v<Computed<M>, T>)
                launch(
                    map_cuts_kernel<M, T>, maps.size(0), how.threads, how.shared, maps_of<M>(maps),
                    how.dense_data(), data_of<const T>(shares), geometry, get()
                );
        });
    }

    MapCuts<T> get() const {
        return {data_of<T>(values_), data_of<T>(cuts_)};
    }

private:
    static Tensor scratch(const Tensor& maps, int64_t size) {
        const ScalarType type = std::is_same_v<T, double> ? ScalarType::Double : ScalarType::Float;
        return torch::stable::new_empty(maps, {size}, type);
    }

    Tensor values_, cuts_;
};

}  // namespace wsdan
