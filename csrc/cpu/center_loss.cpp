// The center loss and the step of the centers on the CPU (arXiv:1901.09891, eq. 5):
// c_b = centers[labels_b] / max(||centers[labels_b]||_2, 1e-12).
//
// The loss reads B*D features and centers and writes B*D differences; the step reads both and
// writes the centers of the batch's labels. Sums run in an order that no thread changes.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "convert.h"
#include "levels.h"
#include "min_norm.h"
#include "ordered_sum.h"
#include "parallel.h"
#include "scratch.h"
#include "tensors.h"

namespace wsdan {
namespace {

constexpr int64_t kStretch = 1024;  // summed in T, the stretches in double

// The sum of term(values from i on, how many) over rows of `count`.
template <typename Term>
double sum_of_stretches(int64_t count, const Term& term) {
    double total = 0;
    for (int64_t i = 0; i < count; i += kStretch)
        total += term(i, std::min(kStretch, count - i));
    return total;
}

// A stretch of a row in T: in place where it is stored so, else converted to `buffer`.
template <typename At, typename S, typename T>
const T* stretch_of(At at, const S* row, int64_t i, int64_t count, T* buffer) {
    if constexpr (std::is_same_v<S, T>) {
        return row + i;
    } else {
        convert_row(at, row + i, buffer, count);
        return buffer;
    }
}

// 1 / max(||center||, 1e-12)
template <typename At, typename S, typename T>
T inverse_norm(At at, const S* center, int64_t dim, T /*type*/) {
    alignas(64) T buffer[kStretch];
    const double squares = sum_of_stretches(dim, [&](int64_t i, int64_t count) {
        const T* values = stretch_of(at, center, i, count, buffer);
        return ordered_sum<T>(count, [&](int64_t j) { return values[j] * values[j]; });
    });
    return static_cast<T>(1 / std::max(std::sqrt(squares), kMinNorm));
}

void check_shapes(const Tensor& features, const Tensor& centers, const Tensor& labels) {
    STD_TORCH_CHECK(
        features.size(0) == labels.size(0) && features.size(1) == centers.size(1),
        "center_loss: features (B,D), centers (N,D), labels (B,) differ in B or D"
    );
}

void check_labels(const int64_t* labels, int64_t batch, int64_t classes) {
    for (int64_t b = 0; b < batch; ++b)
        STD_TORCH_CHECK(
            labels[b] >= 0 && labels[b] < classes, "labels must be in [0, ", classes, "), but got ",
            labels[b]
        );
}

// features (B,D), centers (N,D), labels (B,) int64 -> loss (), difference (B,D) = f_b - c_b.
void center_loss(
    const Tensor& features, const Tensor& centers, const Tensor& labels, Tensor loss,
    Tensor difference
) {
    const Tensor x = torch::stable::contiguous(features), c = torch::stable::contiguous(centers);
    const Tensor dense_labels = torch::stable::contiguous(labels);
    const int64_t batch = x.size(0), dim = x.size(1);
    const int64_t* label = data_of<const int64_t>(dense_labels);
    check_shapes(x, centers, labels);
    check_labels(label, batch, c.size(0));
    const Scratch<double> losses(batch);
    with_types(x.scalar_type(), "center_loss", [&](auto stored, auto computed) {
        using S = decltype(stored);
        using T = decltype(computed);
        const S* feature_data = data_of<const S>(x);
        const S* center_data = data_of<const S>(c);
        T* difference_data = data_of<T>(difference);
        for_each_task(batch, 3 * dim, [&](int64_t b) {
            at_cpu_level([&](auto at) {
                alignas(64) T feature_buffer[kStretch], center_buffer[kStretch];
                const S* feature = feature_data + b * dim;
                const S* center = center_data + label[b] * dim;
                T* target = difference_data + b * dim;
                const T inverse = inverse_norm(at, center, dim, T{});
                losses[b] = sum_of_stretches(dim, [&](int64_t i, int64_t count) {
                    const T* f = stretch_of(at, feature, i, count, feature_buffer);
                    const T* o = stretch_of(at, center, i, count, center_buffer);
                    for (int64_t j = 0; j < count; ++j)
                        target[i + j] = f[j] - o[j] * inverse;
                    return ordered_sum<T>(count, [&](int64_t j) {
                        return target[i + j] * target[i + j];
                    });
                });
            });
        });
        const double total = std::accumulate(losses.data(), losses.data() + batch, 0.0);
        *data_of<T>(loss) =
            static_cast<T>(total / static_cast<double>(std::max<int64_t>(batch, 1)));
    });
}

// The samples of one label: order[begin..end).
struct Group {
    int64_t begin, end;
};

// Sorts the samples into groups; these in the order of their first samples, so that a thread meets
// the rows that it read for the loss.
std::vector<Group> groups_of(const int64_t* label, std::vector<int64_t>& order) {
    const int64_t batch = static_cast<int64_t>(order.size());
    std::iota(order.begin(), order.end(), int64_t{0});
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
        return label[a] < label[b];
    });
    std::vector<Group> groups;
    for (int64_t i = 0; i < batch; ++i)
        if (i > 0 && label[order[i]] == label[order[i - 1]])
            groups.back().end = i + 1;
        else
            groups.push_back({i, i + 1});
    std::sort(groups.begin(), groups.end(), [&](const Group& a, const Group& b) {
        return order[a.begin] < order[b.begin];
    });
    return groups;
}

// centers[labels_b] += beta (f_b - c_b), c_b read before any update; steps that share a label are
// added up, or averaged.
void update_centers_(
    Tensor centers, const Tensor& features, const Tensor& labels, double beta,
    const std::string& duplicates
) {
    const Tensor x = torch::stable::contiguous(features);
    const Tensor dense_labels = torch::stable::contiguous(labels);
    const int64_t batch = x.size(0), dim = x.size(1);
    const int64_t* label = data_of<const int64_t>(dense_labels);
    check_shapes(x, centers, labels);
    check_labels(label, batch, centers.size(0));
    std::vector<int64_t> order(static_cast<std::size_t>(batch));
    const std::vector<Group> groups = groups_of(label, order);
    const int64_t count_of_groups = static_cast<int64_t>(groups.size());
    Tensor dense_centers = torch::stable::contiguous(centers);
    with_types(x.scalar_type(), "update_centers_", [&](auto stored, auto computed) {
        using S = decltype(stored);
        using T = decltype(computed);
        const S* feature_data = data_of<const S>(x);
        S* center_data = data_of<S>(dense_centers);
        const Scratch<T> inverses(count_of_groups);
        for_each_task(count_of_groups, dim, [&](int64_t g) {
            at_cpu_level([&](auto at) {
                const S* center = center_data + label[order[groups[g].begin]] * dim;
                inverses[g] = inverse_norm(at, center, dim, T{});
            });
        });
        const int64_t stretches = (dim + kStretch - 1) / kStretch;
        const int64_t parts = parts_per_image(count_of_groups, stretches);
        const int64_t share = (stretches + parts - 1) / parts * kStretch;
        for_each_task(count_of_groups * parts, share, [&](int64_t task) {
            at_cpu_level([&](auto at) {
                alignas(64) T buffer[kStretch], center[kStretch], sum[kStretch];
                const Group group = groups[task / parts];
                const T inverse = inverses[task / parts];
                const int64_t begin = (task % parts) * share, end = std::min(dim, begin + share);
                const int64_t divide = duplicates == "mean" ? group.end - group.begin : 1;
                const T step = static_cast<T>(beta / static_cast<double>(divide));
                S* target = center_data + label[order[group.begin]] * dim;
                for (int64_t i = begin; i < end; i += kStretch) {
                    const int64_t count = std::min(kStretch, end - i);
                    convert_row(at, target + i, center, count);
                    std::fill(sum, sum + count, T(0));
                    for (int64_t n = group.begin; n < group.end; ++n) {
                        const S* feature = feature_data + order[n] * dim;
                        const T* f = stretch_of(at, feature, i, count, buffer);
                        for (int64_t j = 0; j < count; ++j)
                            sum[j] += f[j] - center[j] * inverse;
                    }
                    for (int64_t j = 0; j < count; ++j)
                        center[j] += step * sum[j];
                    convert_row(at, center, target + i, count);
                }
            });
        });
    });
    if (!centers.is_contiguous())
        torch::stable::copy_(centers, dense_centers);
}

STABLE_TORCH_LIBRARY_IMPL(wsdan_native, CPU, library) {
    library.impl("center_loss", TORCH_BOX(&center_loss));
    library.impl("update_centers_", TORCH_BOX(&update_centers_));
}

}  // namespace
}  // namespace wsdan
