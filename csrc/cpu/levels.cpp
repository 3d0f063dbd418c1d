#include "levels.h"

#include <torch/csrc/stable/library.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdlib>
#include <string>

#if defined(__x86_64__) && defined(__clang__)
#include <cpuid.h>
#endif

namespace wsdan {
namespace {

#if defined(__x86_64__) && defined(__GNUC__)
bool has_f16c() {
#if defined(__clang__)  // whose __builtin_cpu_supports does not know it
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
#else
    return __builtin_cpu_supports("f16c");
#endif
}
#endif

Level machine_level() {
#if defined(__x86_64__) && defined(__GNUC__)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                      has_f16c() && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    return avx512 ? Level::avx512 : avx2 ? Level::avx2 : Level::baseline;
#else
    return Level::baseline;
#endif
}

std::string name(Level level) {
    return level == Level::avx512 ? "avx512" : level == Level::avx2 ? "avx2" : "baseline";
}

Level chosen_level() {
    const Level machine = machine_level();
    const char* wanted = std::getenv("WSDAN_CPU_LEVEL");
    if (wanted == nullptr || *wanted == '\0')
        return machine;
    for (const Level level : {Level::baseline, Level::avx2, Level::avx512})
        if (name(level) == wanted && level <= machine)
            return level;
    STD_TORCH_CHECK(
        false, "WSDAN_CPU_LEVEL must be baseline, avx2 or avx512, and no more than this machine's ",
        name(machine), ", but is ", wanted
    );
}

std::string cpu_level_name() {
    return name(cpu_level());
}

STABLE_TORCH_LIBRARY_IMPL(wsdan_native, CompositeExplicitAutograd, library) {
    library.impl("cpu_level", TORCH_BOX(&cpu_level_name));
}

}  // namespace

Level cpu_level() {
    static const Level level = chosen_level();
    return level;
}

}  // namespace wsdan
