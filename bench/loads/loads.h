// The loads of the whole-program benchmark that are our own: one program, one function each. A load does as much work as `size` says,
// the same in every environment, prints what came out, which must be the same everywhere, and returns 0.
#ifndef LOADS_H
#define LOADS_H

#include <stdint.h>

int load_sort(unsigned size);    // `size` thousand 64-bit integers, quicksort with an inlined compare
int load_chase(unsigned size);   // `size` thousand steps through a ring of pointers in random order
int load_recurse(unsigned size); // Fibonacci of `size` by recursion
int load_nbody(unsigned size);   // `size` thousand steps of five bodies, double precision
int load_matmul(unsigned size);  // product of two matrices of that size, double precision, AVX2 where it is
int load_fft(unsigned size);     // `size` complex transforms of 4096 points, double precision
int load_mandel(unsigned size);  // the Mandelbrot set, `size` by `size` points, single precision, four at a time

int load_fork(unsigned size);    // `size` processes that exit at once, each waited for
int load_exec(unsigned size);    // `size` processes that execute this program to print nothing
int load_pipe(unsigned size);    // `size` bytes to another process and back
int load_fault(unsigned size);   // `size` pages of fresh anonymous memory touched
int load_mmap(unsigned size);    // `size` times 16 pages mapped, one of them touched, and unmapped
int load_syscall(unsigned size); // `size` times getppid

#endif
