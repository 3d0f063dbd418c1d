// Images split into bands of rows, where there are more threads than images.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../../torch/tensors.h"
#include "../convert.h"
#include "../levels.h"
#include "../parallel.h"

namespace wsdan {

// body(at, b, from, to) for bands of rows, from..to of `rows`, of each image b. `cost`: elements of
// a row.
template <typename Body>
void for_each_band(const Tensor& images, int64_t rows, int64_t cost, const Body& body) {
    const int64_t parts = parts_per_image(images.size(0), rows / 16);
    const int64_t share = (rows + parts - 1) / parts;
    for_each_task(images.size(0) * parts, cost * share, [&](int64_t task) {
        const int64_t from = (task % parts) * share, to = std::min(rows, from + share);
        if (from < to)
            at_cpu_level([&](auto at) {
                body(at, task / parts, from, to);
                end_streams();
            });
    });
}

}  // namespace wsdan
