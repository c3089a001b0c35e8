// What the bare-metal test guests share: output, checks, traps that return to the test, privilege changes.
//
// A guest is a multiboot image. start.S takes it from the loader to ring 0 with flat segments (32-bit guests without paging,
// 64-bit guests in long mode with the first 4 GiB identity-mapped by 2 MiB pages), an IDT and a TSS, and calls guest_main().
// A guest prints one line for each failed check, then `NAME: N passed, N failed`, and leaves through isa-debug-exit at port
// 0xf4: 0 when everything passed, else 1.
//
// The same images run in every engine and in other machine emulators, so nothing here knows about any of them.
#ifndef GUEST_H
#define GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifndef __ASSEMBLER__
typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int32_t i32;
typedef int64_t i64;
typedef uintptr_t word; // a general register

extern const char guest_name[]; // defined by each guest
void guest_main(void);

// --- output and result ---------------------------------------------------------------------------------------------------

void print(const char *fmt, ...) __attribute__((format(printf, 1, 2))); // %s %c %d %u %x %lx, width and 0
_Noreturn void guest_exit(int code);
extern unsigned passed, failed;

void check_at(bool ok, const char *file, int line, const char *fmt, ...) __attribute__((format(printf, 4, 5)));
#define CHECK(cond) check_at((cond), __FILE__, __LINE__, "%s", #cond)
// Equality, with both values in the message.
#define CHECK_EQ(got, want) \
    do { \
        word got_ = (word)(got), want_ = (word)(want); \
        check_at(got_ == want_, __FILE__, __LINE__, "%s is %lx, not %lx", #got, (unsigned long)got_, \
                 (unsigned long)want_); \
    } while (0)
// The trap that the last TRY or run_user() met: vector, or vector and error code.
#define CHECK_TRAP(v) check_trap((v), false, 0, __FILE__, __LINE__)
#define CHECK_TRAP_ERR(v, e) check_trap((v), true, (e), __FILE__, __LINE__)
void check_trap(int vector, bool with_error, word error, const char *file, int line);

// --- processor --------------------------------------------------------------------------------------------------------------

static inline void outb(u16 port, u8 v)
{
    __asm__ volatile("outb %0, %1" ::"a"(v), "Nd"(port));
}
static inline void outw(u16 port, u16 v)
{
    __asm__ volatile("outw %0, %1" ::"a"(v), "Nd"(port));
}
static inline void outl(u16 port, u32 v)
{
    __asm__ volatile("outl %0, %1" ::"a"(v), "Nd"(port));
}
static inline u8 inb(u16 port)
{
    u8 v;
    __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}
static inline u16 inw(u16 port)
{
    u16 v;
    __asm__ volatile("inw %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}
static inline u32 inl(u16 port)
{
    u32 v;
    __asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}

#define REG_ACCESS(name, reg) \
    static inline word read_##name(void) \
    { \
        word v; \
        __asm__ volatile("mov %%" reg ", %0" : "=r"(v)::"memory"); \
        return v; \
    } \
    static inline void write_##name(word v) \
    { \
        __asm__ volatile("mov %0, %%" reg ::"r"(v) : "memory"); \
    }
REG_ACCESS(cr0, "cr0")
REG_ACCESS(cr2, "cr2")
REG_ACCESS(cr3, "cr3")
REG_ACCESS(cr4, "cr4")
REG_ACCESS(dr0, "db0")
REG_ACCESS(dr1, "db1")
REG_ACCESS(dr2, "db2")
REG_ACCESS(dr3, "db3")
REG_ACCESS(dr6, "db6")
REG_ACCESS(dr7, "db7")

static inline word read_flags(void)
{
    word v;
    __asm__ volatile("pushf; pop %0" : "=r"(v)::"memory");
    return v;
}
static inline void write_flags(word v)
{
    __asm__ volatile("push %0; popf" ::"r"(v) : "memory", "cc");
}
static inline void invlpg(const void *p)
{
    __asm__ volatile("invlpg (%0)" ::"r"(p) : "memory");
}

static inline void cpuid(u32 leaf, u32 sub, u32 r[4])
{
    __asm__ volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(leaf), "c"(sub));
}

static inline u64 rdmsr(u32 index)
{
    u32 lo, hi;
    __asm__ volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(index) : "memory");
    return (u64)hi << 32 | lo;
}

static inline void wrmsr(u32 index, u64 v)
{
    __asm__ volatile("wrmsr" ::"c"(index), "a"((u32)v), "d"((u32)(v >> 32)) : "memory");
}

// --- traps ------------------------------------------------------------------------------------------------------------------

// Registers as the trap stubs push them. On traps from the same privilege level in 32-bit guests, sp and ss are not part of the
// hardware's frame and hold what follows it.
struct trap_frame {
#ifdef __x86_64__
    u64 r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
#else
    u32 gs, fs, es, ds, edi, esi, ebp, unused_esp, ebx, edx, ecx, eax;
#endif
    word vector, error, ip, cs, flags, sp, ss;
};

struct trap_info {
    int vector; // -1: none
    word error, ip, cs, flags, sp, ss, cr2;
    unsigned count; // traps seen since the program started
};

extern struct trap_info trap; // of the last TRY, or the last trap that a handler took

// Handler for a vector: return true to resume at the (perhaps changed) frame, false to abandon the TRY.
typedef bool trap_fn(struct trap_frame *f);
extern trap_fn *trap_handler[256];

struct try_buf {
    word reg[8];
};
extern struct try_buf *try_current;
int try_save(struct try_buf *b) __attribute__((returns_twice)); // -1 at first, then the vector

// Run a statement; a trap inside abandons it. `trap` tells what happened (vector -1: nothing).
#define TRY(statement) \
    do { \
        struct try_buf buf_, *outer_ = try_current; \
        trap.vector = -1; \
        trap.error = 0; \
        try_current = &buf_; \
        if (try_save(&buf_) == -1) { \
            statement; \
        } \
        try_current = outer_; \
    } while (0)

// Run fn(arg) at CPL 3 on the user stack until it traps; returning from fn is a trap too (vector 0x80). Outcome in `trap`.
// 64-bit guests map everything user-accessible until kernel_only(); functions marked USER stay so.
#define USER __attribute__((section(".user_text"), noinline))
void run_user(word (*fn)(word), word arg);
extern word user_result; // what fn returned
extern word user_flags;  // flags to set in ring 3, beside those of ring 0
extern u8 user_stack[8192], trap_stack[16384];

// --- tables -------------------------------------------------------------------------------------------------------------------

// Selectors of the flat GDT; entries from SEL_FREE on are for the tests.
#define SEL_CODE 0x08  // ring 0 code of the guest's word size
#define SEL_DATA 0x10  // ring 0 data
#define SEL_UCODE 0x1b // ring 3
#define SEL_UDATA 0x23
#define SEL_CODE32 0x28 // 64-bit guests: ring 0 compatibility code
#define SEL_UCODE32 0x33
#define SEL_CODE16 0x38
#define SEL_DATA16 0x40
#define SEL_TSS 0x48 // 16 bytes in 64-bit guests
#define SEL_FREE 0x60
#define GDT_ENTRIES 64

extern u64 gdt[GDT_ENTRIES];

struct __attribute__((packed)) table_reg {
    u16 limit;
    word base;
};
struct __attribute__((packed)) far_ptr {
    word offset;
    u16 sel;
};

// A descriptor from base, limit (in units of its granularity), and attributes as bits 8..23 of the high doubleword >> 8.
static inline u64 make_desc(u32 base, u32 limit, u32 attr)
{
    u32 lo = (base & 0xffff) << 16 | (limit & 0xffff);
    u32 hi = (base & 0xff000000) | (limit & 0xf0000) | (base >> 16 & 0xff) | attr << 8;
    return (u64)hi << 32 | lo;
}

// Install a gate: `type` is the low 4 type bits, ist only in 64-bit guests.
void set_gate(unsigned vector, word target, u16 sel, unsigned type, unsigned dpl, unsigned ist);
void *gate_stub(unsigned vector); // the normal stub of a vector
void reset_gate(unsigned vector);
void gate_absent(unsigned vector); // clear the present bit

#ifdef __x86_64__
struct __attribute__((packed)) tss {
    u32 rsvd0;
    u64 rsp[3];
    u64 rsvd1;
    u64 ist[7];
    u64 rsvd2;
    u16 rsvd3, iomap;
    u8 bitmap[8193];
};
#else
struct __attribute__((packed)) tss {
    u32 link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags, eax, ecx, edx, ebx, esp, ebp, esi, edi;
    u32 es, cs, ss, ds, fs, gs, ldt;
    u16 trap_bit, iomap;
    u8 redirect[32]; // software-interrupt redirection bitmap (VME): the 32 bytes before the I/O bitmap
    u8 bitmap[8193];
};
#endif
extern struct tss tss;

// --- paging -------------------------------------------------------------------------------------------------------------------

#define PTE_P 0x001ull
#define PTE_W 0x002ull
#define PTE_U 0x004ull
#define PTE_PWT 0x008ull
#define PTE_PCD 0x010ull
#define PTE_A 0x020ull
#define PTE_D 0x040ull
#define PTE_PS 0x080ull
#define PTE_G 0x100ull
#define PTE_NX (1ull << 63)

#ifdef __x86_64__
// The 4 KiB page-table entry for a linear address, built (splitting large pages) where missing; intermediate levels allow all.
u64 *pte_of(u64 linear);
// A zeroed page for tables.
u64 *table_page(void);
// CR3 of another address space: the same mappings in the first 4 GiB, but for the 2 MiB at 1 GiB, whose page table is empty: *pte.
u64 other_space(u64 **pte);
// Make the guest's image supervisor-only, but for USER functions and the user stack: needed before SMEP and SMAP.
void kernel_only(void);
#endif

#endif
#endif
