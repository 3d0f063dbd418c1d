// The operator of boxes, which attention_crop_drop calls too.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <string>

namespace wsdan {

// maps (B,h,w), thresholds (B,T) or (B,) -> boxes (B,T,4) or (B,4) int32.
void attention_boxes(
    const torch::stable::Tensor& maps, const torch::stable::Tensor& thresholds, int64_t height,
    int64_t width, double padding, const std::string& rule, bool align_corners,
    torch::stable::Tensor boxes
);

}  // namespace wsdan
