// The launchers that another one calls.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <string>

#include "../../torch/attention_boxes.h"

namespace wsdan {

// images (B,C,H,W), boxes (B,4) int32 -> crops (B,C,S,T).
void crop_resize(
    const torch::stable::Tensor& images, const torch::stable::Tensor& boxes, int64_t height,
    int64_t width, bool align_corners, torch::stable::Tensor crops
);

// images (B,C,H,W), maps (B,h,w), thresholds (B,) -> drops (B,C,H,W).
void attention_drop(
    const torch::stable::Tensor& images, const torch::stable::Tensor& maps,
    const torch::stable::Tensor& thresholds, const std::string& rule, bool align_corners,
    torch::stable::Tensor drops
);

}  // namespace wsdan
