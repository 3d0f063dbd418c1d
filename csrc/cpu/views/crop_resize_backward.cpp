// The gradient of crop_resize to its images on the CPU: the transposed resampling. Each plane is
// gathered by one thread in the order of its rows, so it is the same however many threads there
// are.
//
// Reads the gradient of the crops once and writes that of the images once.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <vector>

#include "../convert.h"
#include "../levels.h"
#include "../parallel.h"
#include "../scratch.h"
#include "../taps.h"
#include "../tensors.h"
#include "images.h"

namespace wsdan {
namespace {

template <typename At, typename S, typename T>
class UncropPlane {
public:
    UncropPlane(
        const ImageRows<const S>& crop, const Box& box, const ImageRows<S>& image,
        bool align_corners
    )
        : crop_(crop),
          image_(image),
          box_(box),
          columns_(bilinear_taps<T>(box.width(), crop.width, align_corners)),
          rows_(bilinear_taps<T>(box.height(), crop.height, align_corners)),
          slope_(crop.row_size()),
          open_(2 * crop.row_size()),
          line_(image.row_size()) {}

    void run(int64_t plane) {
        const int64_t count = crop_.row_size();
        std::fill(open_.data(), open_.data() + 2 * count, T(0));
        std::fill(line_.data(), line_.data() + image_.row_size(), T(0));
        int64_t row = 0;      // the row of the box that gradients still reach, and the next one
        int64_t written = 0;  // rows of the image
        for (int64_t i = 0; i < crop_.height; ++i) {
            const Tap<T> tap = rows_[i];
            for (; row < tap.lower; ++row)
                written = close_row(plane, row, written);
            convert_row(At{}, crop_.row(plane, i), slope_.data(), count);
            add(tap.lower, T(1) - tap.weight);
            add(tap.upper, tap.weight);
        }
        for (; row < box_.height(); ++row)
            written = close_row(plane, row, written);
        zero_rows(plane, written, image_.height);
    }

private:
    T* open(int64_t y) {
        return open_.data() + (y & 1) * crop_.row_size();
    }

    void add(int64_t y, T weight) {
        T* sum = open(y);
        const T* slope = slope_.data();
        const int64_t count = crop_.row_size();
        for (int64_t j = 0; j < count; ++j)
            sum[j] += weight * slope[j];
    }

    void zero_rows(int64_t plane, int64_t from, int64_t to) {
        for (int64_t y = from; y < to; ++y)
            std::fill(image_.row(plane, y), image_.row(plane, y) + image_.row_size(), S(0.0f));
    }

    // Row y of the box has all its gradient: narrow it, write it, and the rows of zeros before it.
    int64_t close_row(int64_t plane, int64_t y, int64_t written) {
        T* wide = open(y);
        for (int64_t c = 0; c < image_.pixel; ++c)
            narrow(wide + c, line_.data() + box_.left * image_.pixel + c);
        zero_rows(plane, written, box_.top + y);
        convert_row(At{}, line_.data(), image_.row(plane, box_.top + y), image_.row_size());
        std::fill(wide, wide + crop_.row_size(), T(0));
        return box_.top + y + 1;
    }

    // One channel of a row: the sums for a column and the next are held while the taps advance.
    void narrow(const T* wide, T* line) const {
        const int64_t pixel = image_.pixel;
        int64_t column = 0;
        T here = 0, next = 0;
        const auto close_column = [&] {
            line[column * pixel] = here;
            here = next;
            next = 0;
            ++column;
        };
        for (int64_t j = 0; j < crop_.width; ++j) {
            const Tap<T>& tap = columns_[j];
            while (column < tap.lower)
                close_column();
            here += (T(1) - tap.weight) * wide[j * pixel];
            (tap.upper == tap.lower ? here : next) += tap.weight * wide[j * pixel];
        }
        while (column < box_.width())
            close_column();
    }

    const ImageRows<const S> crop_;
    const ImageRows<S> image_;
    const Box box_;
    std::vector<Tap<T>> columns_, rows_;
    Scratch<T> slope_, open_, line_;
};

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
                UncropPlane<decltype(at), S, T> plane(
                    image_rows(x, from, b, interleaved),
                    box_inside(box_data + 4 * b, height, width),
                    image_rows(grad_images, to, b, interleaved), align_corners
                );
                plane.run(task % planes);
            });
        });
    });
}

STABLE_TORCH_LIBRARY_IMPL(wsdan_native, CPU, library) {
    library.impl("crop_resize_backward", TORCH_BOX(&crop_resize_backward));
}

}  // namespace
}  // namespace wsdan
