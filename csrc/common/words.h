// Elements that are moved or erased bit by bit, whatever they hold.
#pragma once

#include <cstdint>
#include <type_traits>

namespace wsdan {

// An unsigned integer as large as a stored type.
template <typename S>
using Word = std::conditional_t<
    sizeof(S) == 8, uint64_t,
    std::conditional_t<
        sizeof(S) == 4, uint32_t, std::conditional_t<sizeof(S) == 2, uint16_t, uint8_t>>>;

}  // namespace wsdan
