// Loads that compute: integers, pointers, floating point.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "loads.h"

static uint64_t seed = 88172645463325252ull;

static uint64_t next_random(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

static void *get(size_t n, size_t size)
{
    void *p = calloc(n, size);
    if (!p) {
        perror("loads");
        exit(1);
    }
    return p;
}

// --- integers -----------------------------------------------------------------------------------------------------------------

static void quicksort(uint64_t *v, long lo, long hi)
{
    while (lo < hi) {
        uint64_t pivot = v[lo + (hi - lo) / 2];
        long i = lo, k = hi;
        while (i <= k) {
            while (v[i] < pivot)
                i++;
            while (v[k] > pivot)
                k--;
            if (i <= k) {
                uint64_t x = v[i];
                v[i++] = v[k];
                v[k--] = x;
            }
        }
        quicksort(v, lo, k);
        lo = i;
    }
}

int load_sort(unsigned size)
{
    size_t n = (size_t)size * 1000;
    uint64_t *v = get(n, sizeof *v), sum = 0;
    for (size_t i = 0; i < n; i++)
        v[i] = next_random();
    quicksort(v, 0, (long)n - 1);
    for (size_t i = 0; i < n; i++) {
        if (i && v[i - 1] > v[i])
            return 1;
        sum = sum * 31 + v[i];
    }
    printf("%016lx\n", (unsigned long)sum);
    return 0;
}

// 64 Ki nodes of a cache line: 4 MiB, more than the second-level cache, and the TLB's reach in 4 KiB pages.
struct node {
    struct node *next;
    uint64_t key, unused[6];
};

int load_chase(unsigned size)
{
    enum { NODES = 65536 };
    struct node *nodes = get(NODES, sizeof *nodes);
    uint32_t *order = get(NODES, sizeof *order);
    for (uint32_t i = 0; i < NODES; i++)
        order[i] = i;
    for (uint32_t i = NODES - 1; i; i--) {
        uint32_t k = (uint32_t)(next_random() % (i + 1)), x = order[i];
        order[i] = order[k];
        order[k] = x;
    }
    for (uint32_t i = 0; i < NODES; i++) {
        nodes[order[i]].next = &nodes[order[(i + 1) % NODES]];
        nodes[order[i]].key = i;
    }
    const struct node *p = &nodes[order[0]];
    uint64_t sum = 0;
    for (uint64_t i = 0; i < (uint64_t)size * 1000; i++) {
        sum = sum * 3 + p->key;
        p = p->next;
    }
    printf("%016lx\n", (unsigned long)sum);
    return 0;
}

// Kept a recursion: the compiler would make half of it a loop.
__attribute__((noinline, noclone, optimize("no-optimize-sibling-calls"))) static uint64_t fibonacci(unsigned n)
{
    if (n < 2)
        return n;
    uint64_t a = fibonacci(n - 1);
    __asm__ volatile("" : "+r"(a));
    return a + fibonacci(n - 2);
}

int load_recurse(unsigned size)
{
    printf("%lu\n", (unsigned long)fibonacci(size));
    return 0;
}

// --- floating point --------------------------------------------------------------------------------------------------------------

struct body {
    double at[3], speed[3], mass;
};

static void advance(struct body *b, unsigned n, double dt)
{
    for (unsigned i = 0; i < n; i++) {
        for (unsigned k = i + 1; k < n; k++) {
            double d[3], square = 0;
            for (unsigned j = 0; j < 3; j++) {
                d[j] = b[i].at[j] - b[k].at[j];
                square += d[j] * d[j];
            }
            double f = dt / (square * sqrt(square));
            for (unsigned j = 0; j < 3; j++) {
                b[i].speed[j] -= d[j] * b[k].mass * f;
                b[k].speed[j] += d[j] * b[i].mass * f;
            }
        }
    }
    for (unsigned i = 0; i < n; i++) {
        for (unsigned j = 0; j < 3; j++)
            b[i].at[j] += dt * b[i].speed[j];
    }
}

// Five bodies: a heavy one, and four in orbits about it.
int load_nbody(unsigned size)
{
    struct body b[5] = {{.mass = 40}};
    for (unsigned i = 1; i < 5; i++) {
        double r = 3.0 * i;
        b[i] = (struct body){{r, 0.1 * i, 0}, {0, sqrt(40 / r), 0.02 * i}, 0.01 * i};
    }
    for (unsigned i = 0; i < size * 1000; i++)
        advance(b, 5, 0.001);
    for (unsigned i = 0; i < 5; i++)
        printf("%a %a %a\n", b[i].at[0], b[i].at[1], b[i].at[2]);
    return 0;
}

static inline __attribute__((always_inline)) void multiply(double *c, const double *a, const double *b, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        for (unsigned k = 0; k < n; k++) {
            double x = a[i * n + k];
            for (unsigned j = 0; j < n; j++)
                c[i * n + j] += x * b[k * n + j];
        }
    }
}

__attribute__((noinline, target("avx2"), optimize("O3"))) static void multiply_avx2(double *c, const double *a,
                                                                                    const double *b, unsigned n)
{
    multiply(c, a, b, n);
}

__attribute__((noinline, optimize("O3"))) static void multiply_sse2(double *c, const double *a, const double *b,
                                                                    unsigned n)
{
    multiply(c, a, b, n);
}

// Without fused multiplications, so that the result does not depend on the choice.
int load_matmul(unsigned size)
{
    size_t n = (size_t)size * size;
    double *a = get(n, sizeof *a), *b = get(n, sizeof *b), *c = get(n, sizeof *c), sum = 0;
    for (size_t i = 0; i < n; i++) {
        a[i] = (double)(next_random() >> 40) / 1024;
        b[i] = (double)(next_random() >> 40) / 1024;
    }
    if (__builtin_cpu_supports("avx2"))
        multiply_avx2(c, a, b, size);
    else
        multiply_sse2(c, a, b, size);
    for (size_t i = 0; i < n; i++)
        sum += c[i];
    printf("%a\n", sum);
    return 0;
}

enum { POINTS = 4096 };

struct complex {
    double re, im;
};

static void transform(struct complex *v, const struct complex *root)
{
    for (unsigned i = 1, k = 0; i < POINTS; i++) { // to bit-reversed order
        unsigned bit = POINTS / 2;
        for (; k & bit; bit /= 2)
            k ^= bit;
        k ^= bit;
        if (i < k) {
            struct complex x = v[i];
            v[i] = v[k];
            v[k] = x;
        }
    }
    for (unsigned half = 1; half < POINTS; half *= 2) {
        for (unsigned i = 0; i < POINTS; i += 2 * half) {
            for (unsigned k = 0; k < half; k++) {
                struct complex w = root[POINTS / 2 / half * k], *a = &v[i + k], *b = a + half;
                struct complex x = {w.re * b->re - w.im * b->im, w.re * b->im + w.im * b->re};
                *b = (struct complex){a->re - x.re, a->im - x.im};
                *a = (struct complex){a->re + x.re, a->im + x.im};
            }
        }
    }
}

int load_fft(unsigned size)
{
    static struct complex v[POINTS], root[POINTS / 2];
    // The roots of unity by multiplication: a libm may differ in its last bit from one processor to the next.
    root[0] = (struct complex){1, 0};
    const struct complex w = {0x1.ffffd8858e8a9p-1, -0x1.921f8becca4bap-10};
    for (unsigned i = 1; i < POINTS / 2; i++) {
        struct complex r = root[i - 1];
        root[i] = (struct complex){r.re * w.re - r.im * w.im, r.re * w.im + r.im * w.re};
    }
    for (unsigned i = 0; i < POINTS; i++)
        v[i] = (struct complex){(double)(next_random() >> 44), 0};
    for (unsigned i = 0; i < size; i++) {
        transform(v, root);
        for (unsigned k = 0; k < POINTS; k++) { // so that it stays in range
            v[k].re /= 64;
            v[k].im /= 64;
        }
    }
    printf("%a %a %a\n", v[0].re, v[1].re, v[POINTS - 1].im);
    return 0;
}

typedef float four_floats __attribute__((vector_size(16)));
typedef int32_t four_ints __attribute__((vector_size(16)));

int load_mandel(unsigned size)
{
    uint64_t inside = 0;
    float step = 3.0f / (float)size;
    for (unsigned row = 0; row < size; row++) {
        for (unsigned column = 0; column < size; column += 4) {
            float x = -2.0f + step * (float)column, y = -1.5f + step * (float)row;
            four_floats cr = {x, x + step, x + 2 * step, x + 3 * step}, ci = {y, y, y, y}, zr = cr, zi = ci;
            four_ints count = {0, 0, 0, 0};
            for (unsigned i = 0; i < 64; i++) {
                four_floats rr = zr * zr, ii = zi * zi;
                count -= rr + ii < 4.0f; // true is -1
                zi = 2.0f * zr * zi + ci;
                zr = rr - ii + cr;
            }
            for (unsigned k = 0; k < 4; k++)
                inside += (uint64_t)count[k];
        }
    }
    printf("%lu\n", (unsigned long)inside);
    return 0;
}
