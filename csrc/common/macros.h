// Lets the maths of csrc/common be compiled for the host and for the device.
#pragma once

#if defined(__CUDACC__)
#define WSDAN_HOST_DEVICE __host__ __device__ inline
#define WSDAN_UNROLL _Pragma("unroll")
#else
#define WSDAN_HOST_DEVICE inline
#define WSDAN_UNROLL
#endif
