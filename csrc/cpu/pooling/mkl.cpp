#include "mkl.h"

#include <torch/csrc/stable/library.h>

#include <atomic>

#include "../levels.h"

#if defined(__x86_64__) && defined(__GNUC__) && defined(__linux__)
#include <dlfcn.h>
#define WSDAN_MKL 1
#endif

namespace wsdan {
namespace {

using Multiply = void(
    const char*, const char*, const int32_t*, const int32_t*, const int32_t*, const float*,
    const float*, const int32_t*, const float*, const int32_t*, const float*, float*, const int32_t*
);
using SetThreads = int(int);

struct Mkl {
    Multiply* multiply = nullptr;
    SetThreads* set_threads = nullptr;  // of the calling thread; returns what it was
};

// torch's stable ABI has no product on one thread, so it is looked up: BLAS's own interface, in
// libtorch or what libtorch loads. Elsewhere than on Intel's CPUs with AVX-512 nothing was measured
// that speaks for it.
Mkl look_up() {
    Mkl mkl;
#ifdef WSDAN_MKL
    __builtin_cpu_init();
    if (!__builtin_cpu_is("intel") || cpu_level() != Level::avx512)
        return mkl;
    void* torch = dlopen("libtorch_cpu.so", RTLD_LAZY | RTLD_NOLOAD);
    if (torch == nullptr)
        return mkl;
    mkl.set_threads = reinterpret_cast<SetThreads*>(dlsym(torch, "MKL_Set_Num_Threads_Local"));
    if (mkl.set_threads != nullptr)
        mkl.multiply = reinterpret_cast<Multiply*>(dlsym(torch, "sgemm_"));
#endif
    return mkl;
}

const Mkl& found() {
    static const Mkl mkl = look_up();
    return mkl;
}

std::atomic<bool> allowed{true};

// For tests and benchmarks that compare both.
bool allow_mkl(bool value) {
    return allowed.exchange(value);
}

STABLE_TORCH_LIBRARY_IMPL(wsdan_native, CompositeExplicitAutograd, library) {
    library.impl("mkl_here", TORCH_BOX(&mkl_here));
    library.impl("allow_mkl", TORCH_BOX(&allow_mkl));
}

class OneThread {
public:
    OneThread() : before_(found().set_threads(1)) {}
    ~OneThread() {
        found().set_threads(before_);
    }
    OneThread(const OneThread&) = delete;
    OneThread& operator=(const OneThread&) = delete;

private:
    int before_;
};

}  // namespace

bool mkl_here() {
    return found().multiply != nullptr && allowed.load(std::memory_order_relaxed);
}

void mkl_product(
    const Matrix<const float>& left, const Matrix<const float>& right, const Matrix<float>& out
) {
    if (!out.by_rows())
        return mkl_product(right.transposed(), left.transposed(), out.transposed());
    // BLAS counts by columns: out^T = right^T left^T, and what lies by rows is its transpose.
    const auto turned = [](const auto& m) { return m.by_rows() ? 'N' : 'T'; };
    const auto leading = [](const auto& m) {
        return static_cast<int32_t>(m.by_rows() ? m.row : m.column);
    };
    const char right_turned = turned(right), left_turned = turned(left);
    const auto columns = static_cast<int32_t>(out.columns), rows = static_cast<int32_t>(out.rows);
    const auto depth = static_cast<int32_t>(left.columns);
    const int32_t right_row = leading(right), left_row = leading(left), out_row = leading(out);
    const float one = 1, zero = 0;
    const OneThread guard;
    found().multiply(
        &right_turned, &left_turned, &columns, &rows, &depth, &one, right.data, &right_row,
        left.data, &left_row, &zero, out.data, &out_row
    );
}

}  // namespace wsdan
