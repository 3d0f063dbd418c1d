// Runs a kernel at the machine's level of vector instructions: compiled for each, chosen at run
// time.
#pragma once

namespace wsdan {

enum class Level { baseline, avx2, avx512 };

// The level kernels run at: the machine's, or the lower one that WSDAN_CPU_LEVEL names.
Level cpu_level();

// What a level offers: bytes of a vector, and the rows of two vectors each that its registers can
// accumulate at once (see product.h).
template <Level level>
struct Registers {
    static constexpr int bytes = level == Level::avx512 ? 64 : level == Level::avx2 ? 32 : 16;
    static constexpr int rows = level == Level::avx512 ? 12 : 6;
};

template <Level level>
struct AtLevel {
    static constexpr Level value = level;
    template <typename T>
    static constexpr int lanes = Registers<level>::bytes / static_cast<int>(sizeof(T));
    static constexpr int rows = Registers<level>::rows;
};

#if defined(__x86_64__) && defined(__GNUC__)
#define WSDAN_AVX2 "avx2,fma,f16c,bmi,bmi2"
#define WSDAN_AVX512 "avx512f,avx512bw,avx512cd,avx512dq,avx512vl," WSDAN_AVX2

template <typename Body>
__attribute__((target(WSDAN_AVX2), flatten, noinline)) void run_avx2(const Body& body) {
    body(AtLevel<Level::avx2>{});
}

template <typename Body>
__attribute__((target(WSDAN_AVX512), flatten, noinline)) void run_avx512(const Body& body) {
    body(AtLevel<Level::avx512>{});
}
#endif

// Before a function: one of its own for all levels, which at_cpu_level does not inline.
#if defined(__GNUC__)
#define WSDAN_NOINLINE __attribute__((noinline))
#else
#define WSDAN_NOINLINE
#endif

// body(at) compiled for that level as a function of its own, not inlined into its callers.
template <typename Body>
void run_apart(AtLevel<Level::baseline> at, const Body& body) {
    body(at);
}
#if defined(__x86_64__) && defined(__GNUC__)
template <typename Body>
void run_apart(AtLevel<Level::avx2> /*at*/, const Body& body) {
    run_avx2(body);
}
template <typename Body>
void run_apart(AtLevel<Level::avx512> /*at*/, const Body& body) {
    run_avx512(body);
}
#endif

// body(AtLevel<...>) with everything it calls inlined and compiled for the level in use.
template <typename Body>
void at_cpu_level(const Body& body) {
#if defined(__x86_64__) && defined(__GNUC__)
    switch (cpu_level()) {
        case Level::avx512:
            return run_avx512(body);
        case Level::avx2:
            return run_avx2(body);
        case Level::baseline:
            break;
    }
#endif
    body(AtLevel<Level::baseline>{});
}

}  // namespace wsdan
