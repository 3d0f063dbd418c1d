#include "shadow.h"

#include <algorithm>

namespace emulator::races {

void Page::renew(uint64_t generation) {
    if (generation_ == generation)
        return;
    generation_ = generation;
    std::fill(cells_.begin(), cells_.end(), Cell{});
}

void Page::split() {
    std::vector<Cell> halves(2 * cells_.size());
    for (size_t i = 0; i < halves.size(); ++i)
        halves[i] = cells_[i / 2];
    cells_.swap(halves);
    grain_ /= 2;
}

Page& Shadow::page(uintptr_t address, uint64_t generation) {
    const uintptr_t number = address / Page::bytes;
    auto& [cached, page] = recent_[number % recent];
    if (page == nullptr || cached != number) {
        std::unique_ptr<Page>& slot = pages_[number];
        if (slot == nullptr)
            slot = std::make_unique<Page>();
        cached = number;
        page = slot.get();
    }
    page->renew(generation);
    return *page;
}

void Shadow::trim() {
    if (pages_.size() <= most)
        return;
    pages_.clear();
    for (auto& entry : recent_)
        entry = {0, nullptr};
}

}  // namespace emulator::races
