// The transposed resampling of a crop, row by row of its box: the rows of the crop are added, with
// their weights, to the two rows of the box they were made of.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../convert.h"
#include "../levels.h"
#include "../scratch.h"
#include "../taps.h"
#include "images.h"

namespace wsdan {

template <typename At, typename S, typename T>
class UncropRows {
public:
    // row_size: of the image that the box lies in.
    WSDAN_NOINLINE UncropRows(
        const ImageRows<const S>& crop, const Box& box, int64_t row_size, bool align_corners
    )
        : crop_(crop),
          box_(box),
          columns_(bilinear_taps<T>(box.width(), crop.width, align_corners)),
          rows_(bilinear_taps<T>(box.height(), crop.height, align_corners)),
          slope_(crop.row_size()),
          open_(2 * crop.row_size()),
          line_(row_size) {
        std::fill(line_.data(), line_.data() + row_size, T(0));
    }

    // emit(y, line) for each row y of the box, in order; the line is a row of the image, 0 outside
    // of the box.
    template <typename Emit>
    void run(int64_t plane, const Emit& emit) {
        const int64_t count = crop_.row_size();
        std::fill(open_.data(), open_.data() + 2 * count, T(0));
        int64_t row = 0;  // of the box: the one that gradients still reach, with the next one
        for (int64_t i = 0; i < crop_.height; ++i) {
            const Tap<T> tap = rows_[i];
            for (; row < tap.lower; ++row)
                close_row(row, emit);
            convert_row(At{}, crop_.row(plane, i), slope_.data(), count);
            add(tap.lower, T(1) - tap.weight);
            add(tap.upper, tap.weight);
        }
        for (; row < box_.height(); ++row)
            close_row(row, emit);
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

    // Row y of the box has all its gradient: narrow it and hand it on.
    template <typename Emit>
    void close_row(int64_t y, const Emit& emit) {
        T* wide = open(y);
        run_apart(At{}, [this, wide](auto /*at*/) {
            for (int64_t c = 0; c < crop_.pixel; ++c)
                narrow(wide + c, line_.data() + box_.left * crop_.pixel + c);
        });
        emit(y, line_.data());
        std::fill(wide, wide + crop_.row_size(), T(0));
    }

    // One channel of a row: the sums for a column and the next are held while the taps advance.
    void narrow(const T* wide, T* line) const {
        const int64_t pixel = crop_.pixel;
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
    const Box box_;
    std::vector<Tap<T>> columns_, rows_;
    Scratch<T> slope_, open_, line_;
};

}  // namespace wsdan
