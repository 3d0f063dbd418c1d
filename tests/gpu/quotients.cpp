// Prints how many quotients of whole numbers refined_quotient rounds otherwise than a division,
// with inverses up to two ulp off, and how many were compared.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>

#include "../../csrc/common/bilinear.h"

namespace {

long wrong = 0, compared = 0;

void compare(float a, float b) {
    for (int ulps = -2; ulps <= 2; ++ulps) {
        float inverse = 1 / b;
        for (int i = 0; i < std::abs(ulps); ++i)
            inverse = std::nextafter(inverse, ulps < 0 ? 0.0f : 2.0f);
        wrong += wsdan::refined_quotient(a, b, inverse) != a / b;
        ++compared;
    }
}

}  // namespace

int main() {
    for (int b = 1; b <= 1100; ++b)
        for (int a = 0; a <= 1100; ++a)
            compare(static_cast<float>(a), static_cast<float>(b));
    std::mt19937 random(1);
    for (int i = 0; i < 2'000'000; ++i)
        compare(
            static_cast<float>(random() % (1 << 24)), static_cast<float>(1 + random() % 0xffffff)
        );
    std::printf("%ld of %ld\n", wrong, compared);
}
