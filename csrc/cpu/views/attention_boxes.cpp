// Attention map to bounding box on the CPU (arXiv:1901.09891 section 3.2-3.3): up = the map resized
// to the image, T = threshold * peak, the box spans the rows and columns where up >= T.
//
// Reads B*h*w values and writes 16 bytes a box.

#include "attention_boxes.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <string>

#include "../../common/boxes.h"
#include "../levels.h"
#include "../parallel.h"
#include "../tensors.h"
#include "resized_map.h"

namespace wsdan {
namespace {

// The box of the positions where up >= cut; false where there is none.
template <typename At, typename T>
bool find_box(ResizedMap<At, T>& map, T cut, double padding, int32_t* box) {
    const MapGeometry& geometry = map.geometry();
    int64_t top = -1, bottom = -1, left = geometry.width, right = -1;
    for (int64_t y = 0; y < geometry.height; ++y) {
        if (map.bound(y) < cut)
            continue;
        const T* row = map.row(y);
        int64_t x = 0;
        while (x < geometry.width && !(row[x] >= cut))
            ++x;
        if (x == geometry.width)
            continue;
        top = top < 0 ? y : top;
        bottom = y;
        left = std::min(left, x);
        x = geometry.width - 1;
        while (x > right && !(row[x] >= cut))
            --x;
        right = std::max(right, x);
    }
    if (top < 0)
        return false;
    const Interval rows = padded_interval(top, bottom, geometry.height, padding, geometry.rule);
    const Interval columns = padded_interval(left, right, geometry.width, padding, geometry.rule);
    box[0] = static_cast<int32_t>(columns.start);
    box[1] = static_cast<int32_t>(rows.start);
    box[2] = static_cast<int32_t>(columns.end);
    box[3] = static_cast<int32_t>(rows.end);
    return true;
}

template <typename At, typename T>
void image_boxes(
    ResizedMap<At, T>& resized, const T* map, const T* thresholds, int64_t count, double padding,
    int32_t* boxes
) {
    resized.load(map);
    for (int64_t t = 0; t < count; ++t) {
        int32_t* box = boxes + 4 * t;
        const T peak = resized.peak();
        if (peak > 0 && find_box(resized, thresholds[t] * peak, padding, box))
            continue;
        box[0] = box[1] = 0;
        box[2] = static_cast<int32_t>(resized.geometry().width);
        box[3] = static_cast<int32_t>(resized.geometry().height);
    }
}

}  // namespace

// The shapes are checked in Python.
void attention_boxes(
    const Tensor& maps, const Tensor& thresholds, int64_t height, int64_t width, double padding,
    const std::string& rule, bool align_corners, Tensor boxes
) {
    STD_TORCH_CHECK(
        maps.dim() == 3 && maps.size(0) == thresholds.size(0),
        "attention_boxes: maps (B,h,w) and thresholds (B,T) differ in B"
    );
    const MapGeometry geometry{maps.size(1), maps.size(2),   height,
                               width,        box_rule(rule), align_corners};
    const int64_t count = thresholds.dim() == 1 ? 1 : thresholds.size(1);
    int32_t* box_data = data_of<int32_t>(boxes);
    with_computed_type(maps.scalar_type(), [&](auto type) {
        using T = decltype(type);
        const Tensor dense_maps = dense_as<T>(maps), dense_thresholds = dense_as<T>(thresholds);
        const T* map_data = data_of<const T>(dense_maps);
        const T* threshold_data = data_of<const T>(dense_thresholds);
        torch::stable::parallel_for(
            /*begin=*/0, maps.size(0), /*grain_size=*/1, [&](int64_t begin, int64_t end) {
                at_cpu_level([&](auto at) {
                    ResizedMap<decltype(at), T> resized(geometry);
                    for (int64_t b = begin; b < end; ++b)
                        image_boxes(
                            resized, map_data + b * geometry.map_size(), threshold_data + b * count,
                            count, padding, box_data + b * count * 4
                        );
                });
            }
        );
    });
}

namespace {

STABLE_TORCH_LIBRARY_IMPL(wsdan_native, CPU, library) {
    library.impl("attention_boxes", TORCH_BOX(&attention_boxes));
}

}  // namespace
}  // namespace wsdan
