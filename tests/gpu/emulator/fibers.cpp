// Compiled without sanitizers: a switch of stacks is none of their business but where told so.
#include "fibers.h"

#include <sys/mman.h>
#include <ucontext.h>

#include <cstdint>
#include <cstdlib>
#include <vector>

#ifdef EMULATOR_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulator {
namespace {

struct Stack {
    void* jump[5];  // of __builtin_setjmp: a switch without the system calls of swapcontext
    bool fresh = true;
    void* fake = nullptr;  // AddressSanitizer's
    const void* bottom = nullptr;
    size_t size = 0;
};

constexpr size_t page = 4096;
constexpr size_t spacing = stack_bytes + page;  // a page that faults below each stack
constexpr int most = 1024;

Stack scheduler;
std::vector<Stack> fibers;
char* memory = nullptr;
int current = -1;
void (*body_of_fibers)() = nullptr;

char* bottom_of(int fiber) {
    return memory + fiber * spacing + page;
}

void tell_start([[maybe_unused]] Stack& from, [[maybe_unused]] const Stack& to) {
#ifdef EMULATOR_ASAN
    __sanitizer_start_switch_fiber(&from.fake, to.bottom, to.size);
#endif
}

void tell_finish([[maybe_unused]] Stack& arrived, [[maybe_unused]] Stack* from) {
#ifdef EMULATOR_ASAN
    __sanitizer_finish_switch_fiber(
        arrived.fake, from ? &from->bottom : nullptr, from ? &from->size : nullptr
    );
#endif
}

[[noreturn]] void run_fiber() {
    tell_finish(fibers[current], &scheduler);
    for (;;) {
        body_of_fibers();
        leave_fiber();
    }
}

// A context of its own only to get onto the new stack.
[[noreturn]] void start(int fiber) {
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = bottom_of(fiber);
    context.uc_stack.ss_size = stack_bytes;
    context.uc_link = nullptr;
    makecontext(&context, run_fiber, 0);
    setcontext(&context);
    std::abort();
}

// Apart, since a function that saves its place may not jump as well.
[[noreturn, gnu::noinline]] void jump_to(Stack& stack) {
    __builtin_longjmp(stack.jump, 1);
}

[[gnu::noinline]] void switch_to_fiber(int fiber) {
    if (__builtin_setjmp(scheduler.jump) == 0) {
        if (fibers[fiber].fresh) {
            fibers[fiber].fresh = false;
            start(fiber);
        }
        jump_to(fibers[fiber]);
    }
}

[[gnu::noinline]] void switch_to_scheduler() {
    if (__builtin_setjmp(fibers[current].jump) == 0)
        jump_to(scheduler);
}

}  // namespace

void need_fibers(int count, void (*body)()) {
    body_of_fibers = body;
    if (memory == nullptr) {
        void* mapped = mmap(
            nullptr, most * spacing, PROT_READ | PROT_WRITE,
            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0
        );
        if (mapped == MAP_FAILED)
            std::abort();
        memory = static_cast<char*>(mapped);
    }
    for (int i = static_cast<int>(fibers.size()); i < count; ++i) {
        mprotect(memory + i * spacing, page, PROT_NONE);
        fibers.emplace_back();
        fibers.back().bottom = bottom_of(i);
        fibers.back().size = stack_bytes;
    }
}

void enter_fiber(int fiber) {
    current = fiber;
    tell_start(scheduler, fibers[fiber]);
    switch_to_fiber(fiber);
    tell_finish(scheduler, nullptr);
    current = -1;
}

void leave_fiber() {
    const int fiber = current;
    tell_start(fibers[fiber], scheduler);
    switch_to_scheduler();
    tell_finish(fibers[fiber], nullptr);
}

void abandon_fibers() {
    for (Stack& fiber : fibers) {
#ifdef EMULATOR_ASAN
        __asan_unpoison_memory_region(fiber.bottom, fiber.size);
#endif
        fiber.fresh = true;
        fiber.fake = nullptr;
    }
}

StackOwner owner_of(const void* address) {
    const auto offset = reinterpret_cast<uintptr_t>(address) - reinterpret_cast<uintptr_t>(memory);
    if (memory == nullptr || offset >= most * spacing)
        return StackOwner::none;
    return static_cast<int>(offset / spacing) == current ? StackOwner::this_fiber
                                                         : StackOwner::other_fiber;
}

}  // namespace emulator
