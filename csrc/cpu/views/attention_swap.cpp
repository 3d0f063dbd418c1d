// CALMix's view on the CPU (arXiv:2605.18700), and its gradient: in the box of each image the
// contents of its partner's box, resized to it, and the image around it.
//
// The forward reads the images' parts outside and the partners' inside of the boxes, and writes
// B*C*H*W elements. The gradient reads and writes as many, and for each further image that has the
// same partner the elements of its box once more. Each plane of it is summed by one thread in the
// order of the images, so it is the same however many threads there are.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>

#include "../convert.h"
#include "../levels.h"
#include "../parallel.h"
#include "../scratch.h"
#include "../tensors.h"
#include "bands.h"
#include "crop_rows.h"
#include "images.h"
#include "uncrop_rows.h"

namespace wsdan {
namespace {

Tensor checked_partners(const Tensor& partners, const Tensor& images) {
    STD_TORCH_CHECK(
        partners.scalar_type() == ScalarType::Long && partners.dim() == 1 &&
            partners.size(0) == images.size(0),
        "attention_swap: partners must be (B,) int64, and B that of the images"
    );
    const Tensor dense = torch::stable::contiguous(partners);
    STD_TORCH_CHECK(
        index_within(dense, images.size(0)), "attention_swap: partners must be in [0, ",
        images.size(0), ")"
    );
    return dense;
}

// The part of an image inside a box, as an image.
template <typename S>
ImageRows<S> inside_box(const ImageRows<S>& image, const Box& box) {
    S* corner = image.row(0, box.top) + box.left * image.pixel;
    return {corner,           image.planes, image.plane_stride, box.height(),
            image.row_stride, box.width(),  image.pixel};
}

// Row y of a plane as it is, but for what lies inside the box.
template <typename At, typename S>
void copy_around(
    At at, const ImageRows<const S>& from, const ImageRows<S>& to, const Box& box, int64_t plane,
    int64_t y, bool stream
) {
    const S* source = from.row(plane, y);
    S* target = to.row(plane, y);
    if (y < box.top || y >= box.bottom)
        return store_row(at, source, target, from.row_size(), stream);
    const int64_t left = box.left * from.pixel, right = box.right * from.pixel;
    convert_row(at, source, target, left);
    convert_row(at, source + right, target + right, from.row_size() - right);
}

// images (B,C,H,W), boxes (B,4) int32, partners (B,) int64 -> swapped (B,C,H,W).
void attention_swap(
    const Tensor& images, const Tensor& boxes, const Tensor& partners, Tensor swapped
) {
    const Tensor x = laid_out_as(images, swapped);
    const Tensor corners = checked_boxes(boxes, images), chosen = checked_partners(partners, x);
    const bool interleaved = !is_planar(swapped), stream = worth_streaming(size_of(swapped));
    const int32_t* box_data = data_of<const int32_t>(corners);
    const int64_t* partner_data = data_of<const int64_t>(chosen);
    const int64_t height = x.size(2), width = x.size(3);
    with_image_types(x.scalar_type(), "attention_swap", [&](auto stored, auto computed) {
        using S = decltype(stored);
        using T = decltype(computed);
        const S* from = data_of<const S>(x);
        S* to = data_of<S>(swapped);
        const auto make = [&](auto at, int64_t b, int64_t y, int64_t end) {
            const int64_t partner = partner_data[b];
            const auto image = image_rows(x, from, b, interleaved);
            const auto result = image_rows(swapped, to, b, interleaved);
            const Box none{0, 0, 0, 0};
            const Box box = partner == b ? none : box_inside(box_data + 4 * b, height, width);
            for (int64_t plane = 0; plane < image.planes; ++plane)
                for (int64_t i = y; i < end; ++i)
                    copy_around(at, image, result, box, plane, i, stream);
            if (partner == b)
                return;
            CropRows<decltype(at), S, T> patch(
                image_rows(x, from, partner, interleaved),
                box_inside(box_data + 4 * partner, height, width), inside_box(result, box),
                /*align_corners=*/true, /*stream=*/false
            );
            for (int64_t i = std::max(y, box.top); i < std::min(end, box.bottom); ++i)
                patch.make_row(i - box.top);
        };
        for_each_band(x, height, x.size(1) * width, make);
    });
}

// The gradient inside the box of one image, one plane at a time: what its partners' boxes give.
template <typename At, typename S, typename T>
class BoxGradient {
public:
    BoxGradient(const Box& box, const ImageRows<S>& image)
        : box_(box),
          image_(image),
          count_(box.width() * image.pixel),
          sums_(box.height() * count_) {}

    void start_with_zero() {
        std::fill(sums_.data(), sums_.data() + box_.height() * count_, T(0));
    }
    void start_with(const ImageRows<const S>& own, int64_t plane) {
        for (int64_t y = 0; y < box_.height(); ++y)
            convert_row(At{}, own.row(plane, y), row(y), count_);
    }

    // patch: the gradient inside the box of an image whose partner this one is.
    void add(const ImageRows<const S>& patch, int64_t plane) {
        UncropRows<At, S, T> rows(patch, box_, image_.row_size(), /*align_corners=*/true);
        rows.run(plane, [&](int64_t y, const T* line) {
            T* sum = row(y);
            const T* more = line + box_.left * image_.pixel;
            const int64_t count = count_;
            for (int64_t i = 0; i < count; ++i)
                sum[i] += more[i];
        });
    }

    void store(int64_t plane) const {
        const ImageRows<S> target = inside_box(image_, box_);
        for (int64_t y = 0; y < box_.height(); ++y)
            convert_row(At{}, row(y), target.row(plane, y), count_);
    }

private:
    T* row(int64_t y) const {
        return sums_.data() + y * count_;
    }

    const Box box_;
    const ImageRows<S> image_;
    const int64_t count_;
    Scratch<T> sums_;
};

// grad_swapped (B,C,H,W), boxes (B,4) int32, partners (B,) int64 -> grad_images (B,C,H,W).
void attention_swap_backward(
    const Tensor& grad_swapped, const Tensor& boxes, const Tensor& partners, Tensor grad_images
) {
    const Tensor x = laid_out_as(grad_swapped, grad_images);
    const Tensor corners = checked_boxes(boxes, x), chosen = checked_partners(partners, x);
    const bool interleaved = !is_planar(grad_images);
    const int32_t* box_data = data_of<const int32_t>(corners);
    const int64_t* partner_data = data_of<const int64_t>(chosen);
    const int64_t batch = x.size(0), height = x.size(2), width = x.size(3);
    const int64_t planes = interleaved ? 1 : x.size(1);
    const int64_t cost = 2 * x.size(1) * height * width / planes;
    with_types(x.scalar_type(), "attention_swap", [&](auto stored, auto computed) {
        using S = decltype(stored);
        const S* from = data_of<const S>(x);
        S* to = data_of<S>(grad_images);
        const auto box_of = [&](int64_t b) { return box_inside(box_data + 4 * b, height, width); };
        const auto make_plane = [&](auto at, int64_t p, int64_t plane) {
            const Box box = box_of(p);
            const auto own = image_rows(x, from, p, interleaved);
            const auto result = image_rows(grad_images, to, p, interleaved);
            BoxGradient<decltype(at), S, decltype(computed)> gradient(box, result);
            if (partner_data[p] == p)
                gradient.start_with(inside_box(own, box), plane);
            else
                gradient.start_with_zero();
            for (int64_t b = 0; b < batch; ++b)
                if (partner_data[b] == p && b != p)
                    gradient.add(inside_box(image_rows(x, from, b, interleaved), box_of(b)), plane);
            for (int64_t y = 0; y < height; ++y)
                copy_around(at, own, result, box, plane, y, /*stream=*/false);
            gradient.store(plane);
        };
        for_each_task(batch * planes, cost, [&](int64_t task) {
            at_cpu_level([&](auto at) { make_plane(at, task / planes, task % planes); });
        });
    });
}

STABLE_TORCH_LIBRARY_IMPL(wsdan_native, CPU, library) {
    library.impl("attention_swap", TORCH_BOX(&attention_swap));
    library.impl("attention_swap_backward", TORCH_BOX(&attention_swap_backward));
}

}  // namespace
}  // namespace wsdan
