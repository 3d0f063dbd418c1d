// Attention map to bounding box on the CPU (arXiv:1901.09891 section 3.2-3.3): up = the map resized
// to the image, T = threshold * peak, the box spans the rows and columns where up >= T.
//
// Reads B*h*w values and writes 16 bytes a box. The resized map is never stored: the map is widened
// once to h rows of W values, and an image row is blended from two of them only where their maxima
// say that it can matter. Rounding is that of torch's interpolate to within 2 ulp, horizontal
// first.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "../common/bilinear.h"
#include "../common/boxes.h"
#include "levels.h"

namespace wsdan {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

struct Geometry {
    int64_t map_height, map_width, height, width, thresholds;
    double padding;
    BoxRule rule;
    bool align_corners;
};

// A blend of two values may exceed the larger of them by rounding; bounds are stretched by this.
template <typename T>
constexpr T kSlack = 8 * std::numeric_limits<T>::epsilon();

// The maximum in eight independent lanes, which the compiler turns into vector instructions.
template <typename T>
T maximum(const T* values, int64_t count) {
    constexpr int64_t lanes = 8;
    T best[lanes];
    std::fill(best, best + lanes, values[0]);
    int64_t i = 0;
    for (; i + lanes <= count; i += lanes)
        for (int64_t j = 0; j < lanes; ++j)
            best[j] = best[j] < values[i + j] ? values[i + j] : best[j];
    for (; i < count; ++i)
        best[0] = std::max(best[0], values[i]);
    return *std::max_element(best, best + lanes);
}

// One map at the width of the image, from which rows of `up` are blended on demand.
template <typename T>
class ResizedMap {
public:
    explicit ResizedMap(const Geometry& geometry)
        : geometry_(geometry),
          wide_(geometry.map_height * geometry.width),
          row_maxima_(geometry.map_height),
          row_(geometry.width) {
        for (int64_t x = 0; x < geometry.width; ++x)
            columns_.push_back(
                bilinear_tap<T>(x, geometry.map_width, geometry.width, geometry.align_corners)
            );
        for (int64_t y = 0; y < geometry.height; ++y)
            rows_.push_back(
                bilinear_tap<T>(y, geometry.map_height, geometry.height, geometry.align_corners)
            );
    }

    void load(const T* map) {
        const int64_t width = geometry_.width;
        for (int64_t y = 0; y < geometry_.map_height; ++y) {
            const T* source = map + y * geometry_.map_width;
            T* target = wide_.data() + y * width;
            for (int64_t x = 0; x < width; ++x) {
                const Tap<T>& tap = columns_[x];
                target[x] = blend(source[tap.lower], source[tap.upper], tap.weight);
            }
            row_maxima_[y] = maximum(target, width);
        }
    }

    // No value of row y of `up` exceeds this one.
    T bound(int64_t y) const {
        const Tap<T>& tap = rows_[y];
        const T larger = std::max(row_maxima_[tap.lower], row_maxima_[tap.upper]);
        return larger + std::abs(larger) * kSlack<T>;
    }

    // Row y of `up`: W values, valid until the next call.
    const T* row(int64_t y) {
        const Tap<T>& tap = rows_[y];
        const T* lower = wide_.data() + tap.lower * geometry_.width;
        const T* upper = wide_.data() + tap.upper * geometry_.width;
        const T weight = tap.weight;
        for (int64_t x = 0; x < geometry_.width; ++x)
            row_[x] = blend(lower[x], upper[x], weight);
        return row_.data();
    }

    // Maximum of `up` where it is positive; some value <= 0 otherwise.
    T peak() {
        T best = 0;
        for (int64_t y = 0; y < geometry_.height; ++y)
            if (bound(y) > best)
                best = std::max(best, maximum(row(y), geometry_.width));
        return best;
    }

private:
    const Geometry& geometry_;
    std::vector<Tap<T>> columns_, rows_;
    std::vector<T> wide_, row_maxima_, row_;
};

// The box of the positions where up >= cut; false where there is none.
template <typename T>
bool find_box(ResizedMap<T>& map, T cut, const Geometry& geometry, int32_t* box) {
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
    const Interval rows =
        padded_interval(top, bottom, geometry.height, geometry.padding, geometry.rule);
    const Interval columns =
        padded_interval(left, right, geometry.width, geometry.padding, geometry.rule);
    box[0] = static_cast<int32_t>(columns.start);
    box[1] = static_cast<int32_t>(rows.start);
    box[2] = static_cast<int32_t>(columns.end);
    box[3] = static_cast<int32_t>(rows.end);
    return true;
}

template <typename T>
void image_boxes(
    ResizedMap<T>& resized, const T* map, const T* thresholds, const Geometry& geometry,
    int32_t* boxes
) {
    const int64_t size = geometry.map_height * geometry.map_width;
    const bool finite = std::all_of(map, map + size, [](T value) { return std::isfinite(value); });
    T peak = 0;
    if (finite) {
        resized.load(map);
        peak = geometry.rule == BoxRule::paper ? resized.peak() : maximum(map, size);
    }
    for (int64_t t = 0; t < geometry.thresholds; ++t) {
        int32_t* box = boxes + 4 * t;
        const bool found = peak > 0 && find_box<T>(resized, thresholds[t] * peak, geometry, box);
        if (!found) {
            box[0] = box[1] = 0;
            box[2] = static_cast<int32_t>(geometry.width);
            box[3] = static_cast<int32_t>(geometry.height);
        }
    }
}

// Everything an image needs, compiled for each level of instructions: one is chosen at run time.
template <typename T>
WSDAN_CPU_LEVELS void batch_boxes(
    const T* maps, const T* thresholds, int64_t begin, int64_t end, const Geometry& geometry,
    int32_t* boxes
) {
    ResizedMap<T> resized(geometry);
    const int64_t map_size = geometry.map_height * geometry.map_width;
    for (int64_t b = begin; b < end; ++b)
        image_boxes<T>(
            resized, maps + b * map_size, thresholds + b * geometry.thresholds, geometry,
            boxes + b * geometry.thresholds * 4
        );
}

template <typename T>
void launch_attention_boxes(
    const Tensor& maps, const Tensor& thresholds, const Geometry& geometry, Tensor& boxes
) {
    const T* map_data = static_cast<const T*>(maps.const_data_ptr());
    const T* threshold_data = static_cast<const T*>(thresholds.const_data_ptr());
    int32_t* box_data = static_cast<int32_t*>(boxes.mutable_data_ptr());
    torch::stable::parallel_for(0, maps.size(0), 1, [&](int64_t begin, int64_t end) {
        batch_boxes<T>(map_data, threshold_data, begin, end, geometry, box_data);
    });
}

// maps (B,h,w), thresholds (B,T) -> (B,T,4) int32. The shapes are checked in Python.
Tensor attention_boxes(
    const Tensor& maps, const Tensor& thresholds, int64_t height, int64_t width, double padding,
    const std::string& rule, bool align_corners
) {
    STD_TORCH_CHECK(
        maps.dim() == 3 && thresholds.dim() == 2, "attention_boxes: maps (B,h,w), thresholds (B,T)"
    );
    STD_TORCH_CHECK(
        maps.size(0) == thresholds.size(0), "attention_boxes: maps and thresholds differ in B"
    );
    const bool is_double = maps.scalar_type() == ScalarType::Double;
    const ScalarType compute = is_double ? ScalarType::Double : ScalarType::Float;
    const auto dense = [&](const Tensor& tensor) {
        return torch::stable::contiguous(torch::stable::to(tensor, compute));
    };
    const Tensor dense_maps = dense(maps);
    const Tensor dense_thresholds = dense(thresholds);
    const Geometry geometry{
        maps.size(1),
        maps.size(2),
        height,
        width,
        thresholds.size(1),
        padding,
        rule == "paper" ? BoxRule::paper : BoxRule::guyuc,
        align_corners,
    };
    Tensor boxes =
        torch::stable::new_empty(maps, {maps.size(0), thresholds.size(1), 4}, ScalarType::Int);
    if (is_double)
        launch_attention_boxes<double>(dense_maps, dense_thresholds, geometry, boxes);
    else
        launch_attention_boxes<float>(dense_maps, dense_thresholds, geometry, boxes);
    return boxes;
}

STABLE_TORCH_LIBRARY_IMPL(wsdan_native, CPU, library) {
    library.impl("attention_boxes", TORCH_BOX(&attention_boxes));
}

}  // namespace
}  // namespace wsdan
