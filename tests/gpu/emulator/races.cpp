// Two accesses to one byte race where different threads make them, at least one writes, not both
// are atomic, and nothing orders them: neither a block barrier between them, nor, in one warp, a
// __syncwarp of both lanes. Blocks of one launch are never ordered. Whatever the order in which the
// threads happen to run here, both of a race's accesses are seen.
//
// g++ -fsanitize=thread puts the calls of __tsan_* before the kernels' accesses; its own runtime,
// which knows of no barrier and no grid, is not linked.
#include "races.h"

#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <string>

#include "fibers.h"
#include "scheduler.h"
#include "shadow.h"

// The linker's names for the section of threadIdx and its like.
extern "C" const char __start_emulator_indices, __stop_emulator_indices;

namespace emulator {
namespace races {
namespace {

// The __syncwarps of each lane that a lane has come after.
using Clock = std::array<uint32_t, lanes>;

Shadow shadow;
uint64_t launch_number = 0;
uint64_t block_serial = 0;  // of all launches
uint32_t epoch = 0;
std::vector<Clock> clocks;  // of the threads of the block

uintptr_t library_start() {
    static const uintptr_t start = [] {
        Dl_info info{};
        dladdr(reinterpret_cast<void*>(&library_start), &info);
        return reinterpret_cast<uintptr_t>(info.dli_fbase);
    }();
    return start;
}

// "crop_resize.cuh:81", as far as the library's line table knows.
std::string source_line(uint32_t code) {
    Dl_info info{};
    dladdr(reinterpret_cast<void*>(&library_start), &info);
    char command[1024], line[512] = "";
    std::snprintf(command, sizeof(command), "addr2line -e '%s' %#x", info.dli_fname, code - 1);
    if (FILE* pipe = popen(command, "r")) {
        if (std::fgets(line, sizeof(line), pipe) == nullptr)
            line[0] = 0;
        pclose(pipe);
    }
    const std::string text(line);
    return text.substr(0, text.find_first_of(" \n"));  // without "(discriminator 3)"
}

// Whether the earlier access is over before this thread's next one.
bool ordered(const Access& earlier, const Access& now) {
    if (earlier.epoch == 0)
        return true;
    if (earlier.block != now.block)
        return false;
    if (earlier.epoch != now.epoch || earlier.thread == now.thread)
        return true;
    return earlier.thread / lanes == now.thread / lanes &&
           clocks[now.thread][earlier.thread % lanes] > earlier.tick;
}

std::string where(const void* address) {
    const auto offset = static_cast<const unsigned char*>(address) - wsdan::shared_bytes;
    if (offset >= 0 && offset < static_cast<ptrdiff_t>(shared_capacity))
        return "byte " + std::to_string(offset) + " of the shared memory";
    char text[40];
    std::snprintf(text, sizeof(text), "the byte at %p", address);
    return text;
}

std::string verb(uint8_t kinds) {
    return kinds & writes ? "writes" : kinds & updates ? "updates" : "reads";
}

[[noreturn]] void report(
    const void* address, const Access& earlier, uint8_t kinds, const Access& now
) {
    fail(
        "race: it " + verb(now.kinds) + " " + where(address) + " (" + source_line(now.code) +
        "), which block " + text(block_index(earlier.block)) + ", thread " +
        text(thread_index(earlier.thread)) + " " + verb(kinds) + " (" + source_line(earlier.code) +
        ") with nothing to order them"
    );
}

// Keeps two accesses such that what races with any that came races with one of these: of two blocks
// where there are such, else of two warps, else of two threads.
void remember(Access (&others)[2], const Access& now) {
    for (Access& other : others) {
        if (!ordered(other, now))
            continue;
        const bool at_once = other.epoch == now.epoch && other.block == now.block &&
                             other.thread == now.thread && other.tick == now.tick;
        const uint8_t kinds = at_once ? other.kinds | now.kinds : now.kinds;
        other = now;
        other.kinds = kinds;
        return;
    }
    if (others[0].block != others[1].block)
        return;
    const int warp = others[0].thread / lanes;
    const bool another_warp = others[1].thread / lanes == warp && now.thread / lanes != warp;
    if (now.block != others[0].block || another_warp)
        others[1] = now;
}

// What of the earlier access races with this one, as Kinds; 0 if nothing.
uint8_t conflict(const Access& earlier, const Access& now) {
    const uint8_t against = now.kinds == reads     ? writes | updates
                            : now.kinds == updates ? writes | reads
                                                   : writes | updates | reads;
    const uint8_t kinds = earlier.kinds & against;
    return kinds != 0 && !ordered(earlier, now) ? kinds : 0;
}

void check(Cell& cell, const void* address, const Access& now) {
    for (const Access* earlier : {&cell.write, &cell.others[0], &cell.others[1]})
        if (const uint8_t kinds = conflict(*earlier, now))
            report(address, *earlier, kinds, now);
    if (now.kinds == writes)
        cell.write = now;
    else
        remember(cell.others, now);
}

bool is_shared(const void* address, size_t size) {
    const uintptr_t offset =
        reinterpret_cast<uintptr_t>(address) - reinterpret_cast<uintptr_t>(wsdan::shared_bytes);
    if (offset >= shared_capacity)
        return false;
    if (offset + size > launched.shared)
        fail(
            "touches " + std::to_string(size) + " bytes at " + where(address) + ", but it has " +
            std::to_string(launched.shared)
        );
    return true;
}

bool within(const void* address, const void* start, const void* end) {
    return address >= start && address < end;
}

// What a thread is given: nobody writes it.
bool is_given(const void* address) {
    const Call& call = launched.call;
    return within(address, &__start_emulator_indices, &__stop_emulator_indices) ||
           within(address, call.data, static_cast<const char*>(call.data) + call.size);
}

void touch(const void* address, size_t size, Kind kind, const void* caller) {
    if (running < 0 || is_given(address))
        return;
    switch (owner_of(address)) {
        case StackOwner::this_fiber:
            return;
        case StackOwner::other_fiber:
            fail("touches another thread's local memory");
        case StackOwner::none:
            break;
    }
    const uint64_t generation = is_shared(address, size) ? 2 * block_serial : 2 * launch_number + 1;
    const Access now{
        static_cast<uint32_t>(launched.block_number),
        epoch,
        clocks[running][running % lanes],
        static_cast<uint32_t>(reinterpret_cast<uintptr_t>(caller) - library_start()),
        static_cast<int16_t>(running),
        kind,
    };
    auto from = reinterpret_cast<uintptr_t>(address);
    for (const uintptr_t end = from + size; from < end;) {
        const size_t offset = from % Page::bytes;
        const size_t part = std::min(end - from, Page::bytes - offset);
        shadow.page(from, generation).each(offset, part, [&](Cell& cell) {
            check(cell, reinterpret_cast<const void*>(from), now);
        });
        from += part;
    }
}

// A GPU ends the launch, where the CPU only takes longer.
void check_alignment(const void* address, size_t alignment) {
    if (running >= 0 && reinterpret_cast<uintptr_t>(address) % alignment != 0)
        fail(
            "touches " + std::to_string(alignment) + " bytes at " + where(address) +
            ", which is not a multiple of that"
        );
}

}  // namespace

void begin_launch() {
    ++launch_number;
    shadow.trim();
    clocks.resize(launched.threads.size());
}

void begin_block() {
    ++block_serial;
    block_barrier();
}

void block_barrier() {
    ++epoch;
    for (Clock& clock : clocks)
        clock.fill(0);
}

void warp_barrier(int warp, unsigned mask) {
    Clock latest{};
    const auto each = [&](const auto& visit) {
        for (int lane = 0; lane < lanes; ++lane)
            if (mask >> lane & 1)
                visit(clocks[warp * lanes + lane], lane);
    };
    each([&](Clock& clock, int lane) {
        ++clock[lane];
        for (int i = 0; i < lanes; ++i)
            latest[i] = std::max(latest[i], clock[i]);
    });
    each([&](Clock& clock, int /*lane*/) { clock = latest; });
}

}  // namespace races

void atomic_access(const void* address, size_t size) {
    races::touch(address, size, races::updates, __builtin_return_address(0));
}

}  // namespace emulator

// clang-format off
#define EMULATOR_TOUCH(name, size, kind, alignment)                          \
    void __tsan_##name(void* address) {                                      \
        using namespace emulator::races;                                     \
        check_alignment(address, alignment);                                 \
        touch(address, size, kind, __builtin_return_address(0));             \
    }
#define EMULATOR_SIZE(size)                                                  \
    EMULATOR_TOUCH(read##size, size, reads, size)                            \
    EMULATOR_TOUCH(write##size, size, writes, size)                          \
    EMULATOR_TOUCH(unaligned_read##size, size, reads, 1)                     \
    EMULATOR_TOUCH(unaligned_write##size, size, writes, 1)
// clang-format on

extern "C" {
EMULATOR_SIZE(1)
EMULATOR_SIZE(2)
EMULATOR_SIZE(4)
EMULATOR_SIZE(8)
EMULATOR_SIZE(16)

void __tsan_read_range(void* address, size_t size) {
    emulator::races::touch(address, size, emulator::races::reads, __builtin_return_address(0));
}

void __tsan_write_range(void* address, size_t size) {
    emulator::races::touch(address, size, emulator::races::writes, __builtin_return_address(0));
}

void __tsan_vptr_update(void** /*address*/, void* /*value*/) {}

void __tsan_vptr_read(void** /*address*/) {}

void __tsan_func_entry(void* /*caller*/) {}

void __tsan_func_exit() {}

void __tsan_init() {}

// The host's reference counts; a kernel's atomics are atomic_access.
uint32_t __tsan_atomic32_fetch_add(volatile uint32_t* address, uint32_t value, int /*order*/) {
    return __atomic_fetch_add(address, value, __ATOMIC_SEQ_CST);
}
}
