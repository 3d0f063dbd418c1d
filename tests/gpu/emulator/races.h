// Which accesses to memory are ordered, and which two of them race.
#pragma once

#include <cstddef>

namespace emulator::races {

void begin_launch();
void begin_block();
void block_barrier();
void warp_barrier(int warp, unsigned mask);

}  // namespace emulator::races
