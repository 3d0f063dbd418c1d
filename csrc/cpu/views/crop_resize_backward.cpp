// The gradient of crop_resize to its images on the CPU: the transposed resampling. Each plane is
// gathered by one thread in the order of its rows, so it is the same however many threads there
// are.
//
// Reads the gradient of the crops once and writes that of the images once.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>

#include "../convert.h"
#include "../levels.h"
#include "../parallel.h"
#include "../tensors.h"
#include "images.h"
#include "uncrop_rows.h"

namespace wsdan {
namespace {

template <typename S>
void zero_rows(const ImageRows<S>& image, int64_t plane, int64_t from, int64_t to) {
    for (int64_t y = from; y < to; ++y)
        std::fill(image.row(plane, y), image.row(plane, y) + image.row_size(), S(0.0f));
}

// grad_crops (B,C,S,T), boxes (B,4) int32 -> grad_images (B,C,H,W).
void crop_resize_backward(
    const Tensor& grad_crops, const Tensor& boxes, int64_t height, int64_t width,
    bool align_corners, Tensor grad_images
) {
    const Tensor x = laid_out_as(grad_crops, grad_images);
    const Tensor corners = checked_boxes(boxes, grad_crops);
    const bool interleaved = !is_planar(grad_images);
    const int32_t* box_data = data_of<const int32_t>(corners);
    const int64_t planes = interleaved ? 1 : x.size(1);
    const int64_t cost = x.size(1) * (height * width + x.size(2) * x.size(3)) / planes;
    with_types(x.scalar_type(), "crop_resize", [&](auto stored, auto computed) {
        using S = decltype(stored);
        using T = decltype(computed);
        const S* from = data_of<const S>(x);
        S* to = data_of<S>(grad_images);
        for_each_task(x.size(0) * planes, cost, [&](int64_t task) {
            at_cpu_level([&](auto at) {
                const int64_t b = task / planes;
                const Box box = box_inside(box_data + 4 * b, height, width);
                const auto image = image_rows(grad_images, to, b, interleaved);
                UncropRows<decltype(at), S, T> rows(
                    image_rows(x, from, b, interleaved), box, image.row_size(), align_corners
                );
                const int64_t plane = task % planes;
                zero_rows(image, plane, 0, box.top);
                rows.run(plane, [&](int64_t y, const T* line) {
                    convert_row(at, line, image.row(plane, box.top + y), image.row_size());
                });
                zero_rows(image, plane, box.bottom, image.height);
            });
        });
    });
}

STABLE_TORCH_LIBRARY_IMPL(wsdan_native, CPU, library) {
    library.impl("crop_resize_backward", TORCH_BOX(&crop_resize_backward));
}

}  // namespace
}  // namespace wsdan
