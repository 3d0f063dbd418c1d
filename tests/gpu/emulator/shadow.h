// What is remembered of each byte that the kernels touch: the last write, and two other accesses.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "scheduler.h"

namespace emulator::races {

enum Kind : uint8_t { reads = 1, updates = 2, writes = 4 };  // updates: atomics

struct Access {
    uint32_t block = 0;
    uint32_t epoch = 0;  // block barriers so far, of all blocks; 0: no access
    uint32_t tick = 0;   // __syncwarps of the lane since then
    uint32_t code = 0;   // where in the library
    int16_t thread = 0;
    uint8_t kinds = 0;  // of Kind; a thread may do several at once
};

struct Cell {
    Access write;
    Access others[2];
};

// The cells of 4 KiB. One cell stands for as many bytes as the smallest access so far: most tensors
// are read and written element by element.
class Page {
public:
    static constexpr size_t bytes = page_bytes;

    // Forgets what an earlier generation left.
    void renew(uint64_t generation);
    // visit(cell) for those of `size` bytes at `offset`, all within the page.
    template <typename Visit>
    void each(size_t offset, size_t size, const Visit& visit) {
        while ((offset | size) & (grain_ - 1))
            split();
        for (size_t i = offset / grain_; i < (offset + size) / grain_; ++i)
            visit(cells_[i]);
    }

private:
    void split();

    uint64_t generation_ = 0;
    size_t grain_ = 16;
    std::vector<Cell> cells_ = std::vector<Cell>(bytes / 16);
};

class Shadow {
public:
    // The page of an address, new where its generation is.
    Page& page(uintptr_t address, uint64_t generation);
    // Between launches, which need nothing of each other: gives memory back.
    void trim();

private:
    static constexpr size_t recent = 64;
    static constexpr size_t most = 4096;

    std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages_;
    std::pair<uintptr_t, Page*> recent_[recent] = {};
};

}  // namespace emulator::races
