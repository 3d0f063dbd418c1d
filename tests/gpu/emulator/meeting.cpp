// Where threads meet: block barriers, and the functions of a warp.
//
// Nothing here looks for mistakes: a meeting to which a thread never comes leaves the others
// waiting until nothing runs, and then the scheduler tells who waits where.
#include <bit>
#include <cstring>
#include <map>

#include "fibers.h"
#include "races.h"
#include "scheduler.h"

namespace emulator {
namespace {

bool same(const Place& a, const Place& b) {
    return a.line == b.line && std::strcmp(a.file, b.file) == 0;
}

std::string text(const Place& place) {
    return std::string(place.function) + " at " + place.file + ":" + std::to_string(place.line);
}

int first_lane() {
    return running / lanes * lanes;
}

// Whether every lane of this thread's mask waits where this thread does.
bool all_lanes_here(const Thread& mine) {
    for (unsigned rest = mine.mask; rest != 0; rest &= rest - 1) {
        const size_t number = first_lane() + std::countr_zero(rest);
        if (number >= launched.threads.size())
            return false;
        const Thread& other = launched.threads[number];
        if (other.wait != Wait::warp || other.mask != mine.mask || !same(other.place, mine.place))
            return false;
    }
    return true;
}

template <typename Visit>
void each_lane(unsigned mask, const Visit& visit) {
    const int first = first_lane();
    for (unsigned rest = mask; rest != 0; rest &= rest - 1)
        visit(std::countr_zero(rest), first + std::countr_zero(rest));
}

// Every lane's value becomes what its source gave.
void exchange(unsigned mask) {
    uint64_t given[lanes];
    each_lane(mask, [&](int lane, int number) { given[lane] = launched.threads[number].value; });
    each_lane(mask, [&](int /*lane*/, int number) {
        Thread& thread = launched.threads[number];
        thread.value = given[thread.source];
    });
}

// finish(mask) runs once, when all lanes have come.
template <typename Finish>
void meet(const Place& place, unsigned mask, const Finish& finish) {
    Thread& thread = this_thread();
    const int lane = running % lanes;
    if ((mask >> lane & 1) == 0)
        fail(text(place) + ": its own lane " + std::to_string(lane) + " is not in the mask");
    thread.wait = Wait::warp;
    thread.place = place;
    thread.mask = mask;
    if (all_lanes_here(thread)) {
        finish(mask);
        each_lane(mask, [](int /*lane*/, int number) { wake(number); });
    }
    leave_fiber();
}

void release_block(const Place& place) {
    int votes = 0;
    for (const Thread& thread : launched.threads) {
        votes += thread.vote;
        if (!same(thread.place, place))
            fail("a barrier for some threads is another for others. " + waiting_threads());
    }
    launched.at_barrier = 0;
    races::block_barrier();
    for (size_t i = 0; i < launched.threads.size(); ++i) {
        launched.threads[i].value = votes;
        wake(static_cast<int>(i));
    }
}

std::string runs(const std::vector<int>& numbers) {
    std::string list;
    for (size_t i = 0; i < numbers.size();) {
        size_t last = i;
        while (last + 1 < numbers.size() && numbers[last + 1] == numbers[last] + 1)
            ++last;
        list += (list.empty() ? "" : ", ") + std::to_string(numbers[i]);
        if (last > i)
            list += "-" + std::to_string(numbers[last]);
        i = last + 1;
    }
    return list;
}

std::string wait_of(const Thread& thread) {
    if (thread.wait == Wait::end)
        return "have ended";
    std::string what = "wait in " + text(thread.place);
    if (thread.wait == Wait::warp) {
        char mask[24];
        std::snprintf(mask, sizeof(mask), " for mask %#010x", thread.mask);
        what += mask;
    }
    return what;
}

}  // namespace

std::string text(const uint3& index) {
    return "(" + std::to_string(index.x) + ", " + std::to_string(index.y) + ", " +
           std::to_string(index.z) + ")";
}

std::string waiting_threads() {
    std::map<std::string, std::vector<int>> groups;
    for (size_t i = 0; i < launched.threads.size(); ++i)
        groups[wait_of(launched.threads[i])].push_back(static_cast<int>(i));
    std::string list;
    for (const auto& [what, numbers] : groups)
        list += (list.empty() ? "Threads " : "; threads ") + runs(numbers) + " " + what;
    return list;
}

int lane() {
    return running % lanes;
}

int block_barrier(const Place& place, bool vote) {
    Thread& mine = this_thread();
    mine.wait = Wait::block;
    mine.place = place;
    mine.vote = vote;
    if (++launched.at_barrier == launched.threads.size())
        release_block(place);
    leave_fiber();
    return static_cast<int>(mine.value);
}

uint64_t shuffle(const Place& place, unsigned mask, uint64_t value, int source) {
    if (source < 0 || source >= lanes || (mask >> source & 1) == 0)
        fail(text(place) + ": reads lane " + std::to_string(source) + ", which is not in the mask");
    this_thread().value = value;
    this_thread().source = source;
    meet(place, mask, exchange);
    return this_thread().value;
}

unsigned ballot(const Place& place, unsigned mask, bool vote) {
    this_thread().vote = vote;
    meet(place, mask, [](unsigned all) {
        uint64_t votes = 0;
        each_lane(all, [&](int lane, int number) {
            votes |= uint64_t{launched.threads[number].vote} << lane;
        });
        each_lane(all, [&](int /*lane*/, int number) { launched.threads[number].value = votes; });
    });
    return static_cast<unsigned>(this_thread().value);
}

void warp_barrier(const Place& place, unsigned mask) {
    meet(place, mask, [](unsigned all) { races::warp_barrier(first_lane() / lanes, all); });
}

}  // namespace emulator
