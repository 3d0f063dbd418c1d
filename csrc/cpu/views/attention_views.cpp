// The views of an image on the CPU (arXiv:1901.09891 section 3.2-3.3): crop_resize, attention_drop,
// and both training views at once, which reads each image row from memory once.
//
// B*C*H*W elements are read and as many written for each view.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <string>

#include "../tensors.h"
#include "attention_boxes.h"
#include "bands.h"
#include "crop_rows.h"
#include "drop_rows.h"
#include "images.h"
#include "resized_map.h"

namespace wsdan {
namespace {

MapGeometry map_geometry(
    const Tensor& maps, const Tensor& thresholds, const Tensor& images, const std::string& rule,
    bool align_corners
) {
    check_batches(images, maps, thresholds, "attention_drop");
    return {maps.size(1),   maps.size(2),   images.size(2),
            images.size(3), box_rule(rule), align_corners};
}

// images (B,C,H,W), boxes (B,4) int32 -> crops (B,C,S,T).
void crop_resize(
    const Tensor& images, const Tensor& boxes, int64_t height, int64_t width, bool align_corners,
    Tensor crops
) {
    const Tensor x = laid_out_as(images, crops);
    const Tensor corners = checked_boxes(boxes, images);
    const bool interleaved = !is_planar(crops), stream = worth_streaming(size_of(crops));
    const int32_t* box_data = data_of<const int32_t>(corners);
    with_image_types(x.scalar_type(), "crop_resize", [&](auto stored, auto computed) {
        using S = decltype(stored);
        using T = decltype(computed);
        const S* from = data_of<const S>(x);
        S* to = data_of<S>(crops);
        for_each_band(
            x, height, x.size(1) * width, [&](auto at, int64_t b, int64_t i, int64_t end) {
                const Box box = box_inside(box_data + 4 * b, x.size(2), x.size(3));
                CropRows<decltype(at), S, T> crop(
                    image_rows(x, from, b, interleaved), box, image_rows(crops, to, b, interleaved),
                    align_corners, stream
                );
                for (; i < end; ++i)
                    crop.make_row(i);
            }
        );
    });
}

// images (B,C,H,W), maps (B,h,w), thresholds (B,) -> drops (B,C,H,W).
void attention_drop(
    const Tensor& images, const Tensor& maps, const Tensor& thresholds, const std::string& rule,
    bool align_corners, Tensor drops
) {
    const Tensor x = laid_out_as(images, drops);
    const bool interleaved = !is_planar(drops), stream = worth_streaming(size_of(drops));
    const MapGeometry geometry = map_geometry(maps, thresholds, images, rule, align_corners);
    with_image_types(x.scalar_type(), "attention_drop", [&](auto stored, auto /*computed*/) {
        using S = decltype(stored);
        const S* from = data_of<const S>(x);
        S* to = data_of<S>(drops);
        with_computed_type(maps.scalar_type(), [&](auto computed) {
            using T = decltype(computed);
            const Tensor dense_maps = dense_as<T>(maps), cuts = dense_as<T>(thresholds);
            const T* map_data = data_of<const T>(dense_maps);
            const T* threshold = data_of<const T>(cuts);
            const int64_t cost = x.size(1) * x.size(3);
            for_each_band(x, x.size(2), cost, [&](auto at, int64_t b, int64_t y, int64_t end) {
                ResizedMap<decltype(at), T> map(geometry);
                map.load(map_data + b * geometry.map_size());
                DropRows<decltype(at), S, T> drop(
                    map, threshold[b], image_rows(x, from, b, interleaved),
                    image_rows(drops, to, b, interleaved), stream
                );
                for (; y < end; ++y)
                    drop.make_row(y);
            });
        });
    });
}

// The boxes of the crop's maps, crop_resize by them to the size of the images, and attention_drop.
void attention_crop_drop(
    const Tensor& images, const Tensor& crop_maps, const Tensor& maps,
    const Tensor& crop_thresholds, const Tensor& thresholds, double padding,
    const std::string& rule, bool align_corners, Tensor crops, Tensor drops, Tensor boxes
) {
    const Tensor x = laid_out_as(images, crops);
    attention_boxes(
        crop_maps, crop_thresholds, images.size(2), images.size(3), padding, rule, align_corners,
        boxes
    );
    const Tensor corners = checked_boxes(boxes, images);
    const bool interleaved = !is_planar(crops), stream = worth_streaming(size_of(crops));
    const int32_t* box_data = data_of<const int32_t>(corners);
    const MapGeometry geometry = map_geometry(maps, thresholds, images, rule, align_corners);
    with_image_types(x.scalar_type(), "attention_crop_drop", [&](auto stored, auto crop_computed) {
        using S = decltype(stored);
        using C = decltype(crop_computed);
        const S* from = data_of<const S>(x);
        S* crop_data = data_of<S>(crops);
        S* drop_data = data_of<S>(drops);
        with_computed_type(maps.scalar_type(), [&](auto computed) {
            using T = decltype(computed);
            const Tensor dense_maps = dense_as<T>(maps), cuts = dense_as<T>(thresholds);
            const T* map_data = data_of<const T>(dense_maps);
            const T* threshold = data_of<const T>(cuts);
            const int64_t cost = 2 * x.size(1) * x.size(3);
            for_each_band(x, x.size(2), cost, [&](auto at, int64_t b, int64_t y, int64_t end) {
                const auto image = image_rows(x, from, b, interleaved);
                const Box box = box_inside(box_data + 4 * b, x.size(2), x.size(3));
                CropRows<decltype(at), S, C> crop(
                    image, box, image_rows(crops, crop_data, b, interleaved),
                    /*align_corners=*/true, stream
                );
                ResizedMap<decltype(at), T> map(geometry);
                map.load(map_data + b * geometry.map_size());
                DropRows<decltype(at), S, T> drop(
                    map, threshold[b], image, image_rows(drops, drop_data, b, interleaved), stream
                );
                int64_t i = 0;
                while (i < x.size(2) && crop.last_source(i) < y)
                    ++i;
                for (; y < end; ++y) {
                    drop.make_row(y);
                    for (; i < x.size(2) && crop.last_source(i) == y; ++i)
                        crop.make_row(i);
                }
            });
        });
    });
}

STABLE_TORCH_LIBRARY_IMPL(wsdan_native, CPU, library) {
    library.impl("crop_resize", TORCH_BOX(&crop_resize));
    library.impl("attention_drop", TORCH_BOX(&attention_drop));
    library.impl("attention_crop_drop", TORCH_BOX(&attention_crop_drop));
}

}  // namespace
}  // namespace wsdan
