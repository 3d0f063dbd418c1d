// Room for what the kernels of a drop read of its maps: dense values, and T for each image.
#pragma once

#include <torch/csrc/stable/ops.h>

#include "../../torch/tensors.h"
#include "../attention_drop.cuh"

namespace wsdan {

template <typename T>
class CutMaps {
public:
    explicit CutMaps(const Tensor& maps)
        : values_(scratch(maps, maps.numel())), cuts_(scratch(maps, maps.size(0))) {}

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
