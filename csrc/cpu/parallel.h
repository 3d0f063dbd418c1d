// Splitting work between the threads of torch.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>

namespace wsdan {

// body(task) for every task < tasks; `cost` of one in elements touched or multiplied, so that small
// work stays on one thread.
template <typename Body>
void for_each_task(int64_t tasks, int64_t cost, const Body& body) {
    constexpr int64_t kWorthAThread = 32768;
    const int64_t grain = std::max<int64_t>(1, kWorthAThread / std::max<int64_t>(1, cost));
    torch::stable::parallel_for(/*begin=*/0, tasks, grain, [&](int64_t begin, int64_t end) {
        for (int64_t task = begin; task < end; ++task)
            body(task);
    });
}

// Into how many parts to split each image so that all threads have work; no result depends on it.
inline int64_t parts_per_image(int64_t batch, int64_t most) {
    const int64_t threads = torch::stable::get_num_threads();
    if (batch == 0 || threads == 1 || batch % threads == 0 || batch >= 4 * threads)
        return 1;
    return std::clamp<int64_t>((2 * threads + batch - 1) / batch, 1, std::max<int64_t>(1, most));
}

}  // namespace wsdan
