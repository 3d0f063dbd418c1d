// Marks a function to be compiled for several levels of x86 instructions, with all it calls inside
// it; the loader picks the level of the machine. Elsewhere it is compiled once.
#pragma once

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && \
    __GNUC__ >= 12
#define WSDAN_CPU_LEVELS \
    __attribute__((flatten, target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define WSDAN_CPU_LEVELS
#endif
