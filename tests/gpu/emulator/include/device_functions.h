// What the threads of a kernel call: barriers, shuffles, votes, atomics, reinterpreted bits.
//
// A barrier or warp function is known by its place in the source, so that threads that wait at
// different ones are told apart.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace emulator {

struct Place {
    const char* function;
    const char* file;
    int line;
};

// All threads of the block meet here. Returns how many of them voted for it.
int block_barrier(const Place& place, bool vote = false);
// All lanes of the mask meet here. Returns what the lane `source` gave.
uint64_t shuffle(const Place& place, unsigned mask, uint64_t value, int source);
// Bit i: lane i of the mask gave true.
unsigned ballot(const Place& place, unsigned mask, bool vote);
// The only warp function that orders memory, as CUDA's guide says.
void warp_barrier(const Place& place, unsigned mask);
int lane();
void atomic_access(const void* address, size_t size);

template <typename T>
T shuffled(const Place& place, unsigned mask, T value, int source) {
    static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8));
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof(T));
    bits = shuffle(place, mask, bits, source);
    std::memcpy(&value, &bits, sizeof(T));
    return value;
}

// `combine` of the old value and `value` replaces the old one, which is returned.
template <typename T, typename Combine>
__attribute__((no_sanitize("thread"))) T atomic(T* address, T value, Combine combine) {
    atomic_access(address, sizeof(T));
    const T old = *address;
    *address = combine(old, value);
    return old;
}

}  // namespace emulator

#define EMULATOR_PLACE const char *file = __builtin_FILE(), int line = __builtin_LINE()
#define EMULATOR_HERE {__func__, file, line}

inline void __syncthreads(EMULATOR_PLACE) {
    emulator::block_barrier(EMULATOR_HERE);
}

inline void __syncwarp(unsigned mask = 0xffffffffu, EMULATOR_PLACE) {
    emulator::warp_barrier(EMULATOR_HERE, mask);
}

// Lanes exchange within groups of `width`, a power of two; beyond the group's end, their own value.
template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, EMULATOR_PLACE) {
    const int first = emulator::lane() & ~(width - 1);
    return emulator::shuffled(EMULATOR_HERE, mask, value, first + (source & (width - 1)));
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, EMULATOR_PLACE) {
    const int lane = emulator::lane(), source = lane ^ lanes;
    const bool inside = source <= (lane | (width - 1));
    return emulator::shuffled(EMULATOR_HERE, mask, value, inside ? source : lane);
}

template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32, EMULATOR_PLACE) {
    const int lane = emulator::lane(), source = lane + static_cast<int>(by);
    const bool inside = source <= (lane | (width - 1));
    return emulator::shuffled(EMULATOR_HERE, mask, value, inside ? source : lane);
}

template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32, EMULATOR_PLACE) {
    const int lane = emulator::lane(), source = lane - static_cast<int>(by);
    const bool inside = source >= (lane & ~(width - 1));
    return emulator::shuffled(EMULATOR_HERE, mask, value, inside ? source : lane);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, EMULATOR_PLACE) {
    return emulator::ballot(EMULATOR_HERE, mask, predicate != 0);
}

inline int __any_sync(unsigned mask, int predicate, EMULATOR_PLACE) {
    return emulator::ballot(EMULATOR_HERE, mask, predicate != 0) != 0;
}

inline int __all_sync(unsigned mask, int predicate, EMULATOR_PLACE) {
    return emulator::ballot(EMULATOR_HERE, mask, predicate != 0) == mask;
}

inline int __syncthreads_count(int predicate, EMULATOR_PLACE) {
    return emulator::block_barrier(EMULATOR_HERE, predicate != 0);
}

inline int __syncthreads_or(int predicate, EMULATOR_PLACE) {
    return emulator::block_barrier(EMULATOR_HERE, predicate != 0) != 0;
}

inline int __syncthreads_and(int predicate, EMULATOR_PLACE) {
    return emulator::block_barrier(EMULATOR_HERE, predicate == 0) == 0;
}

#undef EMULATOR_PLACE
#undef EMULATOR_HERE

template <typename T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
    return emulator::atomic(address, value, [](T a, T b) { return static_cast<T>(a + b); });
}

template <typename T>
T atomicMax(T* address, std::type_identity_t<T> value) {
    return emulator::atomic(address, value, [](T a, T b) { return a < b ? b : a; });
}

template <typename T>
T atomicMin(T* address, std::type_identity_t<T> value) {
    return emulator::atomic(address, value, [](T a, T b) { return b < a ? b : a; });
}

template <typename T>
T atomicOr(T* address, std::type_identity_t<T> value) {
    return emulator::atomic(address, value, [](T a, T b) { return a | b; });
}

template <typename T>
T atomicExch(T* address, std::type_identity_t<T> value) {
    return emulator::atomic(address, value, [](T, T b) { return b; });
}

template <typename T>
T atomicCAS(T* address, std::type_identity_t<T> compare, std::type_identity_t<T> value) {
    return emulator::atomic(address, value, [compare](T a, T b) { return a == compare ? b : a; });
}

inline int __float_as_int(float value) {
    return std::bit_cast<int>(value);
}

inline unsigned __float_as_uint(float value) {
    return std::bit_cast<unsigned>(value);
}

inline float __int_as_float(int bits) {
    return std::bit_cast<float>(bits);
}

inline float __uint_as_float(unsigned bits) {
    return std::bit_cast<float>(bits);
}

inline int __popc(unsigned bits) {
    return std::popcount(bits);
}

inline int __ffs(int bits) {
    return __builtin_ffs(bits);
}

inline int __clz(int bits) {
    return std::countl_zero(static_cast<unsigned>(bits));
}

template <typename T>
T __ldg(const T* address) {
    return *address;
}
