// Stacks that take turns on one thread of the machine: one for each thread of a CUDA block.
#pragma once

#include <cstddef>

namespace emulator {

inline constexpr size_t stack_bytes = size_t{1} << 17;

// Makes `count` fibers that run body() again and again, each time that the last one has ended.
void need_fibers(int count, void (*body)());
// From the scheduler: runs the fiber until it calls leave_fiber.
void enter_fiber(int fiber);
// From a fiber: back to the scheduler; returns when the fiber is entered again.
void leave_fiber();
// All fibers begin anew when they are next entered, wherever they were.
void abandon_fibers();

enum class StackOwner { none, this_fiber, other_fiber };
StackOwner owner_of(const void* address);

}  // namespace emulator
