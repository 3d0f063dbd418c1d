// A sum in vectors whose bits depend on nothing but the values.
#pragma once

#include <cstdint>

namespace wsdan {

// The sum of term(i), i < count, in an order that depends on nothing but the count.
template <typename T, typename Term>
T ordered_sum(int64_t count, const Term& term) {
    constexpr int64_t lanes = 16;
    T sums[lanes] = {};
    int64_t i = 0;
    for (; i + lanes <= count; i += lanes)
        for (int64_t j = 0; j < lanes; ++j)
            sums[j] += term(i + j);
    for (; i < count; ++i)
        sums[0] += term(i);
    for (int64_t step = lanes / 2; step > 0; step /= 2)
        for (int64_t j = 0; j < step; ++j)
            sums[j] += sums[j + step];
    return sums[0];
}

}  // namespace wsdan
