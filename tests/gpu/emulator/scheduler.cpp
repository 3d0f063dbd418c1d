// Runs the blocks of a grid one after another, and the threads of a block in turns, both in an
// order drawn from a seed.
#include "scheduler.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <numeric>
#include <random>

#include "fibers.h"
#include "races.h"

#ifdef EMULATOR_ASAN
#include <sanitizer/asan_interface.h>
#endif

// Apart from all else, so that their reads are known by their addresses.
#define INDICES __attribute__((section("emulator_indices")))
INDICES uint3 threadIdx, blockIdx;
INDICES dim3 blockDim, gridDim;

namespace wsdan {
// Whole pages: what is remembered of a page is of the block's memory alone.
alignas(emulator::page_bytes) unsigned char shared_bytes
    [(emulator::shared_capacity / emulator::page_bytes + 1) * emulator::page_bytes];
}  // namespace wsdan

namespace emulator {

Launch launched;
int running = -1;

namespace {

std::mutex one_launch;
std::vector<int> ready;
uint64_t order_seed = 0;
uint64_t launch_count = 0;

void thread_body() {
    launched.call.run(launched.call.data);
    this_thread().wait = Wait::end;
}

void begin_block(uint64_t number) {
    launched.block_number = number;
    launched.at_barrier = 0;
    blockIdx = block_index(number);
    std::memset(wsdan::shared_bytes, 0xff, launched.shared);  // NaN
    for (Thread& thread : launched.threads)
        thread.wait = Wait::nothing;
    ready.resize(launched.threads.size());
    std::iota(ready.begin(), ready.end(), 0);
    races::begin_block();
}

int draw(std::mt19937_64& random) {
    const size_t place = random() % ready.size();
    const int thread = ready[place];
    ready[place] = ready.back();
    ready.pop_back();
    return thread;
}

void run_block(uint64_t number, std::mt19937_64& random) {
    begin_block(number);
    while (!ready.empty() && launched.error.empty()) {
        running = draw(random);
        threadIdx = launched.threads[running].index;
        enter_fiber(running);
        running = -1;
    }
    if (!launched.error.empty())
        return;
    for (const Thread& thread : launched.threads) {
        if (thread.wait != Wait::end) {
            launched.error = launched.kernel + ", block " + text(blockIdx) +
                             ": threads wait for each other. " + waiting_threads();
            return;
        }
    }
}

void run_grid() {
    std::mt19937_64 random(order_seed);
    const uint64_t count = uint64_t{launched.grid.x} * launched.grid.y * launched.grid.z;
    std::vector<uint32_t> order(count);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random);
    for (const uint32_t number : order) {
        run_block(number, random);
        if (!launched.error.empty())
            return abandon_fibers();
    }
}

void make_threads() {
    const dim3& block = launched.block;
    launched.threads.resize(size_t{block.x} * block.y * block.z);
    for (unsigned i = 0; i < launched.threads.size(); ++i)
        launched.threads[i].index = thread_index(i);
    need_fibers(static_cast<int>(launched.threads.size()), thread_body);
}

void limit_shared_memory([[maybe_unused]] size_t bytes) {
#ifdef EMULATOR_ASAN
    __asan_unpoison_memory_region(wsdan::shared_bytes, bytes);
    __asan_poison_memory_region(wsdan::shared_bytes + bytes, sizeof(wsdan::shared_bytes) - bytes);
#endif
}

}  // namespace

uint3 block_index(uint64_t number) {
    const uint64_t x = launched.grid.x, y = launched.grid.y;
    return {
        static_cast<unsigned>(number % x), static_cast<unsigned>(number / x % y),
        static_cast<unsigned>(number / x / y)
    };
}

uint3 thread_index(unsigned number) {
    const unsigned x = launched.block.x, y = launched.block.y;
    return {number % x, number / x % y, number / x / y};
}

Thread& this_thread() {
    return launched.threads[running];
}

void wake(int thread) {
    launched.threads[thread].wait = Wait::nothing;
    ready.push_back(thread);
}

void fail(const std::string& what) {
    launched.error =
        launched.kernel + ", block " + text(blockIdx) + ", thread " + text(threadIdx) + ": " + what;
    leave_fiber();
    __builtin_unreachable();  // the fibers of a failed launch are abandoned
}

std::string run_launch(
    const std::string& kernel, const cudaLaunchConfig_t& config, const Call& call
) {
    const std::lock_guard<std::mutex> alone(one_launch);
    ++launch_count;
    launched = {kernel, config.gridDim, config.blockDim, config.dynamicSmemBytes, call};
    gridDim = config.gridDim;
    blockDim = config.blockDim;
    make_threads();
    limit_shared_memory(config.dynamicSmemBytes);
    races::begin_launch();
    run_grid();
    return launched.error;
}

}  // namespace emulator

extern "C" {

// What a test steers: the order of blocks and threads; and what it counts.
__attribute__((visibility("default"))) void emulator_seed(uint64_t seed) {
    emulator::order_seed = seed;
}

__attribute__((visibility("default"))) uint64_t emulator_launches() {
    return emulator::launch_count;
}
}
