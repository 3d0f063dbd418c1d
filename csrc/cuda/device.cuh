// What the kernels share: shared memory, chunks of elements, combining the values of a block.
//
// A .cuh includes no header of CUDA or torch: nvcc brings what it needs by itself, and
// tests/gpu/emulator compiles the same source for the CPU.
#pragma once

#include <cstdint>

#include "../common/elements.h"

namespace wsdan {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

// How many neighbouring elements a thread takes at once: 16 bytes of them, the widest access there
// is; 8 of single bytes, as what is computed of each takes registers.
template <typename S>
constexpr int kChunk = sizeof(S) == 1 ? 8 : 16 / static_cast<int>(sizeof(S));

// The shared memory that the launch asked for.
__device__ inline unsigned char* shared_memory() {
    extern __shared__ __align__(16) unsigned char shared_bytes[];
    return shared_bytes;
}

// Neighbouring elements that a thread reads or writes by one instruction.
template <typename S, int count>
struct Chunk {
    S values[count];
};

template <int bytes>
struct alignas(bytes) Words {
    uint32_t words[bytes / 4];
};

template <typename S, int count>
__device__ inline Chunk<S, count> load_chunk(const S* from) {
    if constexpr (count == 1) {
        return {*from};
    } else {
        const auto words = *reinterpret_cast<const Words<sizeof(S) * count>*>(from);
        return bits_as<Chunk<S, count>>(words);
    }
}

template <typename S, int count>
__device__ inline void store_chunk(S* to, const Chunk<S, count>& chunk) {
    if constexpr (count == 1)
        *to = chunk.values[0];
    else
        *reinterpret_cast<Words<sizeof(S) * count>*>(to) = bits_as<Words<sizeof(S) * count>>(chunk);
}

// The values of all threads of a block combined, the same in each of them. Blocks are whole warps;
// `room` holds kWarp values of shared memory, which are free again afterwards.
template <typename T, typename Exchange, typename Combine>
__device__ T combined(T value, T* room, const Exchange& exchange, const Combine& combine) {
    for (int distance = kWarp / 2; distance > 0; distance /= 2)
        value = combine(value, exchange(value, distance));
    const int warps = blockDim.x / kWarp;
    if (threadIdx.x % kWarp == 0)
        room[threadIdx.x / kWarp] = value;
    __syncthreads();
    T all = room[0];
    for (int warp = 1; warp < warps; ++warp)
        all = combine(all, room[warp]);
    __syncthreads();
    return all;
}

template <typename T>
__device__ T block_maximum(T value, T* room) {
    return combined(
        value, room, [](T own, int distance) { return __shfl_xor_sync(kAllLanes, own, distance); },
        [](T a, T b) { return a < b ? b : a; }
    );
}

}  // namespace wsdan
