// Working memory of a kernel, aligned to cache lines and not initialised.
#pragma once

#include <cstdint>
#include <memory>
#include <new>

namespace wsdan {

template <typename T>
class Scratch {
public:
    explicit Scratch(int64_t count)
        : data_(
              static_cast<T*>(::operator new(
                  static_cast<std::size_t>(count > 0 ? count : 1) * sizeof(T), alignment
              ))
          ) {}
    T* data() const {
        return data_.get();
    }
    T& operator[](int64_t i) const {
        return data_.get()[i];
    }

private:
    static constexpr std::align_val_t alignment{64};
    struct Free {
        void operator()(T* pointer) const {
            ::operator delete(pointer, alignment);
        }
    };
    std::unique_ptr<T, Free> data_;
};

}  // namespace wsdan
