// The block that runs: its threads, what each waits for, and how a launch fails.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "include/cuda_runtime.h"

namespace wsdan {
extern unsigned char shared_bytes[];
}

namespace emulator {

inline constexpr size_t shared_capacity = 232448;  // of a block, on sm_90 and sm_100
inline constexpr size_t page_bytes = 4096;
inline constexpr int lanes = 32;

enum class Wait { nothing, block, warp, end };

struct Thread {
    uint3 index;
    Wait wait;
    Place place;
    unsigned mask;
    bool vote;
    uint64_t value;  // given to a warp function, then its result
    int source;
};

struct Launch {
    std::string kernel;
    dim3 grid, block;
    size_t shared;
    Call call;
    uint64_t block_number = 0;
    std::vector<Thread> threads{};  // of the block that runs
    size_t at_barrier = 0;
    std::string error{};  // empty while all is well
};

extern Launch launched;
// The thread that runs, or -1 outside of kernels.
extern int running;

Thread& this_thread();
void wake(int thread);
// Ends the launch, for what this thread does.
[[noreturn]] void fail(const std::string& what);

uint3 block_index(uint64_t number);
uint3 thread_index(unsigned number);
std::string text(const uint3& index);
// What every thread of the block waits for.
std::string waiting_threads();
// Runs the grid; an empty text, or what went wrong.
std::string run_launch(
    const std::string& kernel, const cudaLaunchConfig_t& config, const Call& call
);

}  // namespace emulator
