// The fields of struct cpu by name, one by one: to compare two processors, to print where they differ, to take a fingerprint of one.
#ifndef POGO_CORE_CPU_FIELDS_H
#define POGO_CORE_CPU_FIELDS_H

#include "core/cpu.h"

// `count` values of `size` bytes, `stride` bytes apart. Of several, the n-th is called `name` followed by n, or by what stands at place n
// in `names`.
struct cpu_field {
    const char *name;
    const char *const *names;
    u16 offset, size, stride, count;
};

#define CPU_FIELD_NAME 24 // longest name of a value, with the 0 at its end

// n-th row, or NULL past the end. Together the rows are all of struct cpu but padding and reserved bytes.
const struct cpu_field *cpu_field_at(unsigned n);
// Name of the n-th value of a row.
void cpu_field_name(const struct cpu_field *f, unsigned n, char name[CPU_FIELD_NAME]);
static inline const u8 *cpu_field_value(const struct cpu *c, const struct cpu_field *f, unsigned n)
{
    return (const u8 *)c + f->offset + (size_t)n * f->stride;
}

// Do two processors have the same state? Quick.
bool cpu_same(const struct cpu *a, const struct cpu *b);
// Fingerprint: the same for the same state.
u64 cpu_hash(const struct cpu *c);

#endif
