// Drawing attention maps by their mass on the CPU (arXiv:1901.09891 section 3.2): the weight of map
// m is sqrt(mean of the map), and a uniform number picks by the inverse of their cumulative sum.
//
// Reads B*M*K elements once.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>

#include "convert.h"
#include "levels.h"
#include "ordered_sum.h"
#include "parallel.h"
#include "scratch.h"
#include "tensors.h"

namespace wsdan {
namespace {

// weights[m] = sqrt(mean of map m), 0 where that is negative or not finite; equal where all are 0.
template <typename At, typename S>
void mass_weights(At at, const S* maps, int64_t count, int64_t positions, double* weights) {
    const Scratch<float> map(positions);
    bool usable = false;
    for (int64_t m = 0; m < count; ++m) {
        convert_row(at, maps + m * positions, map.data(), positions);
        const float sum = ordered_sum<float>(positions, [&](int64_t k) { return map[k]; });
        const double mass = sum / static_cast<float>(positions);
        weights[m] = std::isfinite(mass) && mass > 0 ? std::sqrt(mass) : 0.0;
        usable = usable || weights[m] > 0;
    }
    if (!usable)
        std::fill(weights, weights + count, 1.0);
}

// attentions (B,M,h,w), uniforms (B,S) in [0,1) -> picks (B,S) int64.
void sample_attention(
    const Tensor& attentions, const Tensor& uniforms, const std::string& weighting, Tensor picks
) {
    STD_TORCH_CHECK(
        attentions.size(0) == uniforms.size(0),
        "sample_attention: attentions and uniforms differ in B"
    );
    const Tensor maps = torch::stable::contiguous(attentions);
    const Tensor numbers =
        torch::stable::contiguous(torch::stable::to(uniforms, ScalarType::Double));
    const int64_t count = maps.size(1), positions = maps.size(2) * maps.size(3);
    const int64_t samples = uniforms.size(1);
    const double* number = data_of<const double>(numbers);
    int64_t* pick = data_of<int64_t>(picks);
    const bool by_mass = weighting == "sqrt_mass";
    with_types(maps.scalar_type(), "sample_attention", [&](auto stored, auto /*computed*/) {
        using S = decltype(stored);
        const S* map_data = data_of<const S>(maps);
        for_each_task(maps.size(0), by_mass ? count * positions : count, [&](int64_t b) {
            const Scratch<double> ends(count);
            std::fill(ends.data(), ends.data() + count, 1.0);
            if (by_mass)
                at_cpu_level([&](auto at) {
                    mass_weights(
                        at, map_data + b * count * positions, count, positions, ends.data()
                    );
                });
            for (int64_t m = 1; m < count; ++m)
                ends[m] += ends[m - 1];
            for (int64_t s = b * samples; s < (b + 1) * samples; ++s) {
                const double target = number[s] * ends[count - 1];
                const int64_t below = std::count_if(
                    ends.data(), ends.data() + count, [&](double end) { return end <= target; }
                );
                pick[s] = std::min(below, count - 1);
            }
        });
    });
}

STABLE_TORCH_LIBRARY_IMPL(wsdan_native, CPU, library) {
    library.impl("sample_attention", TORCH_BOX(&sample_attention));
}

}  // namespace
}  // namespace wsdan
