// A value that is stored as a byte.
#pragma once

#include <cmath>
#include <cstdint>

#include "macros.h"

namespace wsdan {

// To nearest, ties to even; of a value in 0..255.
template <typename T>
WSDAN_HOST_DEVICE uint8_t byte_of(T value) {
    return static_cast<uint8_t>(std::rint(value));
}

}  // namespace wsdan
