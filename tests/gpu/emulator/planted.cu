// Small kernels with faults planted in them, each also without: what the emulator must find, and
// what it must let pass. Called from Python through C functions that return an error's text.
#include <cuda_runtime.h>

#include <cstdint>

namespace wsdan {
extern __shared__ __align__(16) unsigned char shared_bytes[];
}

namespace planted {

template <typename T>
T* shared() {
    return reinterpret_cast<T*>(wsdan::shared_bytes);
}

// out[i] = in[n-1-i] within each block, through shared memory.
__global__ void reverse(const float* in, float* out, bool with_barrier) {
    float* line = shared<float>();
    const unsigned i = threadIdx.x, first = blockIdx.x * blockDim.x;
    line[i] = in[first + i];
    if (with_barrier)
        __syncthreads();
    out[first + i] = line[blockDim.x - 1 - i];
}

// The sum of each block's values: within warps by shuffles, between them through shared memory.
__global__ void sum_blocks(const float* in, float* out) {
    float* partial = shared<float>();
    float sum = in[blockIdx.x * blockDim.x + threadIdx.x];
    for (int lanes = 16; lanes > 0; lanes /= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
    if (threadIdx.x % 32 == 0)
        partial[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        float total = 0;
        for (unsigned warp = 0; warp < blockDim.x / 32; ++warp)
            total += partial[warp];
        out[blockIdx.x] = total;
    }
}

// Where each thread of a grid of all three axes is, written once by each.
__global__ void places(int32_t* out) {
    const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    const unsigned threads = blockDim.x * blockDim.y * blockDim.z;
    out[block * threads + thread] = static_cast<int32_t>(block * 10000 + thread);
}

// out[warp]: the lanes with a positive value; then whether any has, all have; shuffled values.
__global__ void votes(const float* in, uint32_t* out, float* shuffled) {
    const unsigned i = threadIdx.x, warp = i / 32;
    const unsigned lanes = __ballot_sync(0xffffffffu, in[i] > 0);
    const int any = __any_sync(0xffffffffu, in[i] > 0);
    const int all = __all_sync(0xffffffffu, in[i] > 0);
    const int count = __syncthreads_count(in[i] > 0);
    if (i % 32 == 0) {
        out[4 * warp] = lanes;
        out[4 * warp + 1] = any;
        out[4 * warp + 2] = all;
        out[4 * warp + 3] = count;
    }
    const unsigned n = blockDim.x;
    shuffled[i] = __shfl_sync(0xffffffffu, in[i], 5);
    shuffled[n + i] = __shfl_down_sync(0xffffffffu, in[i], 3);
    shuffled[2 * n + i] = __shfl_up_sync(0xffffffffu, in[i], 3, 16);
    shuffled[3 * n + i] = __shfl_sync(0xffffffffu, in[i], 9, 8);
    shuffled[4 * n + i] = i % 32 < 12 ? __shfl_xor_sync(0xfffu, in[i], 1) : in[i];
}

// counts[v] += 1 for each value v, by all blocks; `seen` gets counts that others may yet change.
__global__ void histogram(const int32_t* in, int32_t* counts, int32_t* seen, bool by_atomics) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    int32_t* mine = counts + in[i];
    if (by_atomics)
        atomicAdd(mine, 1);
    else
        *mine += 1;
    if (seen != nullptr)
        seen[i] = *mine;
}

// Each thread reads the local variable of another, by way of shared memory.
__global__ void locals(float* out, bool own) {
    float** places = shared<float*>();
    float mine = static_cast<float>(threadIdx.x);
    places[threadIdx.x] = &mine;
    __syncthreads();
    out[threadIdx.x] = *places[own ? threadIdx.x : threadIdx.x ^ 1];
    __syncthreads();
}

// Each lane reads what its neighbour wrote; __syncwarp orders them, a shuffle does not.
__global__ void neighbours(const float* in, float* out, bool ordered) {
    float* line = shared<float>();
    const unsigned i = threadIdx.x;
    line[i] = in[i];
    if (ordered)
        __syncwarp();
    else
        __shfl_sync(0xffffffffu, in[i], 0);
    out[i] = line[i ^ 1];
}

// The blocks' last elements reach `reach` into the next block's part.
__global__ void scale(const float* in, float* out, int reach) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    out[i] = 2 * in[i];
    if (threadIdx.x == blockDim.x - 1)
        out[i + reach] = 2 * in[i + reach];
}

// One of the threads ends before the barrier, or leaves the first one out.
__global__ void barriers(float* out, int fault) {
    const bool odd = threadIdx.x == 40;
    if (fault == 1 && odd)
        return;
    if (!(fault == 2 && odd))
        __syncthreads();
    __syncthreads();
    out[threadIdx.x] = 1;
}

// A shuffle of a whole warp without its last lane; one whose mask lacks the lane itself; one that
// reads a lane outside of the mask.
__global__ void lanes(float* out, int fault) {
    const unsigned lane = threadIdx.x;
    float value = static_cast<float>(lane);
    if (!(fault == 1 && lane == 31))
        value = __shfl_xor_sync(fault == 2 ? 0x7fffffffu : 0xffffffffu, value, 1);
    if (fault == 3 && lane < 16)
        value = __shfl_sync(0xffffu, value, 20);
    out[lane] = value;
}

// A chunk of 16 bytes that begins at in[first].
__global__ void copy_chunk(const float* in, float* out, unsigned first) {
    struct alignas(16) Chunk {
        float values[4];
    };
    const Chunk chunk = *reinterpret_cast<const Chunk*>(in + first);
    for (int i = 0; i < 4; ++i)
        out[i] = chunk.values[i];
}

__global__ void fill_shared(float* out, unsigned count) {
    float* line = shared<float>();
    for (unsigned i = threadIdx.x; i < count; i += blockDim.x)
        line[i] = static_cast<float>(i);
    __syncthreads();
    out[threadIdx.x] = line[threadIdx.x];
}

__global__ void read_shared(float* out) {
    out[threadIdx.x] = shared<float>()[threadIdx.x];
}

template <typename... Parameters, typename... Arguments>
const char* launch(
    dim3 grid, dim3 block, size_t shared_size, void (*kernel)(Parameters...), Arguments... arguments
) {
    const cudaLaunchConfig_t config{grid, block, shared_size, nullptr, nullptr, 0};
    const cudaError_t error = cudaLaunchKernelEx(&config, kernel, arguments...);
    return error == cudaSuccess ? "" : cudaGetErrorString(error);
}

}  // namespace planted

#define PLANTED extern "C" __attribute__((visibility("default"))) const char*

PLANTED planted_reverse(const float* in, float* out, unsigned blocks, unsigned n, int barrier) {
    return planted::launch(blocks, n, n * 4, planted::reverse, in, out, barrier != 0);
}

PLANTED planted_sum_blocks(const float* in, float* out, unsigned blocks, unsigned n) {
    return planted::launch(blocks, n, n / 32 * 4, planted::sum_blocks, in, out);
}

PLANTED planted_places(int32_t* out) {
    return planted::launch({3, 2, 5}, {4, 3, 2}, 0, planted::places, out);
}

PLANTED planted_votes(const float* in, uint32_t* out, float* shuffled, unsigned n) {
    return planted::launch(1, n, 0, planted::votes, in, out, shuffled);
}

PLANTED planted_histogram(
    const int32_t* in, int32_t* counts, int32_t* seen, unsigned blocks, int by_atomics
) {
    return planted::launch(blocks, 32, 0, planted::histogram, in, counts, seen, by_atomics != 0);
}

PLANTED planted_locals(float* out, int own) {
    return planted::launch(1, 32, 32 * sizeof(float*), planted::locals, out, own != 0);
}

PLANTED planted_neighbours(const float* in, float* out, int ordered) {
    return planted::launch(1, 64, 256, planted::neighbours, in, out, ordered != 0);
}

PLANTED planted_scale(const float* in, float* out, unsigned blocks, int reach) {
    return planted::launch(blocks, 16, 0, planted::scale, in, out, reach);
}

PLANTED planted_barriers(float* out, int fault) {
    return planted::launch(1, 64, 0, planted::barriers, out, fault);
}

PLANTED planted_lanes(float* out, int fault) {
    return planted::launch(1, 32, 0, planted::lanes, out, fault);
}

PLANTED planted_copy_chunk(const float* in, float* out, unsigned first) {
    return planted::launch(1, 1, 0, planted::copy_chunk, in, out, first);
}

PLANTED planted_fill_shared(float* out, unsigned count, unsigned size, int allow) {
    if (allow > 0)
        cudaFuncSetAttribute(
            planted::fill_shared, cudaFuncAttributeMaxDynamicSharedMemorySize, allow
        );
    return planted::launch(1, 32, size, planted::fill_shared, out, count);
}

PLANTED planted_read_shared(float* out) {
    return planted::launch(1, 32, 128, planted::read_shared, out);
}

PLANTED planted_shape(float* out, unsigned grid_y, unsigned threads) {
    return planted::launch({1, grid_y}, threads, 128, planted::read_shared, out);
}
