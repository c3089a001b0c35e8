// Code that changes: by the instruction before it, by itself, through another linear address, across a page end, by remapping its
// page or switching address spaces, on the stack, from ring 3, in a chain of jumps, and read in two modes. Whoever keeps decoded
// or translated code has to notice every one of these.
//
// On processors a store is seen by the next fetch from the same linear address; other changes here are followed by a
// serializing instruction (SDM 3A 8.1.3). QEMU agrees.
#include "code.h"

const char guest_name[] = "smc";

static u32 call_with(const void *fn, const void *rdi, u64 rcx)
{
    u32 result;
    __asm__ volatile("call *%3" : "=a"(result), "+D"(rdi), "+c"(rcx) : "r"(fn), "a"(0) : "rdx", "memory", "cc");
    return result;
}

// --- one after the other ------------------------------------------------------------------------------------------------

static void next_instruction(void)
{
    for (unsigned i = 0; i < 4; i++) { // the second time it has been seen before
        // MOV DWORD [rip + 1], 0x100 + i; MOV EAX, 0; RET
        PUT(code, 0xc7, 0x05, 1, 0, 0, 0, 0, 1, 0, 0, 0xb8, 0, 0, 0, 0, 0xc3);
        code[6] = (u8)i;
        CHECK_EQ(call(code), 0x100 + i);
    }
    // A byte store that turns the next instruction into another: INC EAX becomes DEC EAX.
    PUT(code, 0x31, 0xc0, 0xc6, 0x05, 1, 0, 0, 0, 0xc8, 0xff, 0xc0, 0xc3);
    CHECK_EQ(call(code), 0xffffffff);
    CHECK_EQ(call(code), 0xffffffff);
    // It becomes longer: XOR EAX, EAX; NOP...; RET to MOV EAX, imm32; RET.
    PUT(code, 0x48, 0xb9, 0xb8, 0x44, 0x33, 0x22, 0x11, 0xc3, 0x90, 0x90); // MOV RCX, the new bytes
    PUT(code + 10, 0x48, 0x89, 0x0d, 0, 0, 0, 0);                          // MOV [rip], RCX
    PUT(code + 17, 0x31, 0xc0, 0xc3, 0x90, 0x90, 0x90, 0x90, 0x90);
    CHECK_EQ(call(code), 0x11223344);
}

static void itself(void)
{
    // MOV BYTE [rip - 1], 7: the last byte of the instruction is its own immediate. It stores the old one.
    for (unsigned i = 0; i < 2; i++) {
        PUT(code, 0xc6, 0x05, 0xff, 0xff, 0xff, 0xff, 7, 0xb8, 5, 0, 0, 0, 0xc3);
        CHECK_EQ(call(code), 5);
        CHECK_EQ(code[6], 7);
    }
    // MOV [rip - 11], 9...: it overwrites its opcode with MOV EAX, imm32; RET, which the second call meets.
    PUT(code, 0x48, 0xc7, 0x05, 0xf5, 0xff, 0xff, 0xff, 0xb8, 9, 0, 0, 0xb8, 5, 0, 0, 0, 0xc3);
    CHECK_EQ(call(code), 5);
    CHECK_EQ(code[0], 0xb8);
    code[5] = 0xc3;
    CHECK_EQ(call(code), 9);
}

// A loop whose body changes every time: L: ADD EAX, n; INC DWORD [L + 1]; LOOP L; RET adds 0 + 1 + ... + 99.
static void loop_body(void)
{
    PUT(code, 0x05, 0, 0, 0, 0, 0xff, 0x05, 0xf6, 0xff, 0xff, 0xff, 0xe2, 0xf3, 0xc3);
    CHECK_EQ(call_with(code, code, 100), 4950);
    CHECK_EQ(code[1], 100);
}

static void by_string_instructions(void)
{
    static const u8 replacement[] = {0xb8, 0x77, 0, 0, 0, 0xc3, 0x90, 0x90};
    for (unsigned i = 0; i < 2; i++) {
        // REP STOSB over what follows: NOPs, then RET.
        PUT(code, 0xb0, 0x90, 0xf3, 0xaa, 0x0f, 0x0b, 0x0f, 0x0b, 0xc3);
        CHECK_EQ(call_with(code, code + 4, 4) & 0xff, 0x90);
        // REP MOVSB from RSI.
        PUT(code, 0xf3, 0xa4, 0x0f, 0x0b, 0x0f, 0x0b, 0x0f, 0x0b, 0x0f, 0x0b, 0xc3);
        u32 result;
        u64 count = 8;
        void *to = code + 2;
        const void *from = replacement;
        __asm__ volatile("call *%4" : "=a"(result), "+c"(count), "+D"(to), "+S"(from) : "r"(code) : "memory");
        CHECK_EQ(result, 0x77);
    }
}

// Other kinds of stores: XCHG, CMPXCHG8B, PUSH, a vector store.
static void by_other_stores(void)
{
    put_return(code, 1);
    CHECK_EQ(call(code), 1);
    u32 value = 2;
    __asm__ volatile("xchg %0, 1(%1)" : "+r"(value) : "r"(code) : "memory");
    CHECK_EQ(call(code), 2);
    u64 old = *(u64 *)code;
    u64 new = old ^ 1 << 8; // 2 becomes 3
    __asm__ volatile("lock cmpxchg8b (%0)" ::"r"(code), "a"((u32)old), "d"(old >> 32), "b"((u32) new), "c"(new >> 32)
                     : "memory", "cc");
    CHECK_EQ(call(code), 3);
    __asm__ volatile("mov %%rsp, %%rcx; lea 8(%0), %%rsp; push %1; mov %%rcx, %%rsp" ::"r"(code), "r"(old ^ 6 << 8)
                     : "rcx", "memory");
    CHECK_EQ(call(code), 4);
    u8 vector[16] __attribute__((aligned(16)));
    __builtin_memcpy(vector, code, 16);
    vector[1] = 5;
    __asm__ volatile("movups (%0), %%xmm0; movups %%xmm0, (%1)" ::"r"(vector), "r"(code) : "memory");
    CHECK_EQ(call(code), 5);
    __asm__ volatile("fninit; fildl (%0); fistpl 1(%1)" ::"r"(&(i32){6}), "r"(code) : "memory");
    CHECK_EQ(call(code), 6);
}

// --- chains -------------------------------------------------------------------------------------------------------------

// A jumps to B in another page; B changes after A has run.
static void jump_target(void)
{
    u8 *b = code + 4096;
    PUT(code, 0xe9, 0xfb, 0x0f, 0, 0); // JMP +4096
    for (unsigned i = 0; i < 4; i++) {
        put_return(b, i);
        CHECK_EQ(call(code), i);
    }
    // The jump itself changes.
    put_return(b + 16, 99);
    *(u32 *)(code + 1) += 16;
    CHECK_EQ(call(code), 99);
}

// F changes what comes after the CALL that it returns to.
static void return_target(void)
{
    for (unsigned i = 0; i < 3; i++) {
        PUT(code, 0xe8, 0x1b, 0, 0, 0, 0xb8, 0, 0, 0, 0, 0xc3);      // CALL +32; MOV EAX, 0; RET
        PUT(code + 32, 0xc6, 0x05, 0xdf, 0xff, 0xff, 0xff, 0, 0xc3); // MOV BYTE [code + 6], i; RET
        code[38] = (u8)(i + 10);
        CHECK_EQ(call(code), i + 10);
    }
}

// Two readings of the same bytes: from the start, MOV EAX, 0xc3c301b0; RET; from the second byte, MOV AL, 1; RET.
static void overlapping(void)
{
    PUT(code, 0xb8, 0xb0, 1, 0xc3, 0xc3, 0xc3);
    CHECK_EQ(call(code), 0xc3c301b0);
    CHECK_EQ(call(code + 1) & 0xff, 1);
    code[2] = 2;
    CHECK_EQ(call(code), 0xc3c302b0);
    CHECK_EQ(call(code + 1) & 0xff, 2);
}

// A debugger's breakpoint: put in, met, taken out.
static void breakpoint(void)
{
    put_return(code, 1);
    CHECK_EQ(call(code), 1);
    u8 saved = code[0];
    code[0] = 0xcc;
    TRY(call(code));
    CHECK_TRAP(3);
    CHECK_EQ(trap.ip, (word)code + 1);
    code[0] = saved;
    TRY(CHECK_EQ(call(code), 1));
    CHECK_TRAP(-1);
}

// --- pages --------------------------------------------------------------------------------------------------------------

// An instruction on two pages, changed on one or the other.
static void page_crossing(void)
{
    for (unsigned before = 1; before < 6; before++) { // bytes on the first page
        u8 *at = code + 4096 - before;
        put_return(at, 0x11223344);
        CHECK_EQ(call(at), 0x11223344);
        at[1] = 0x55;
        CHECK_EQ(call(at), 0x11223355);
        at[4] = 0x66;
        CHECK_EQ(call(at), 0x66223355);
        // The second page becomes another.
        u8 *third = alias + 0x2000;
        put_return(third - before, 0x77777777); // its tail is at the start of the third page
        map(1, (PHYS + 0x2000) | PTE_ALL);
        u32 want = 0;
        for (unsigned i = 1; i < 5; i++)
            want |= (u32)(i < before ? at[i] : third[i - before]) << 8 * (i - 1);
        third[5 - before] = 0xc3;
        CHECK_EQ(call(at), want);
        map(1, (PHYS + 0x1000) | PTE_ALL);
        CHECK_EQ(call(at), 0x66223355);
    }
}

static void other_address(void)
{
    for (u32 i = 0; i < 3; i++) {
        put_return(alias, i);
        serialize();
        CHECK_EQ(call(code), i);
        put_return(code, i + 10);
        CHECK_EQ(call(alias), i + 10); // and executed at both
    }
    *(volatile u32 *)(flat + 1) = 55; // a third address
    serialize();
    CHECK_EQ(call(code), 55);
    CHECK_EQ(call(alias), 55);
}

static void remapped(void)
{
    put_return(code, 1);
    put_return(code + 4096, 2);
    CHECK_EQ(call(code), 1);
    map(0, (PHYS + 0x1000) | PTE_ALL);
    CHECK_EQ(call(code), 2);
    map(0, PHYS | PTE_ALL);
    CHECK_EQ(call(code), 1);
    code_pte[0] = (PHYS + 0x1000) | PTE_ALL;
    write_cr3(read_cr3());
    CHECK_EQ(call(code), 2);
    // A direct jump that was taken before its target's page moved.
    map(0, PHYS | PTE_ALL);
    PUT(code, 0xe9, 0xfb, 0x0f, 0, 0);
    CHECK_EQ(call(code), 2);
    put_return(alias + 0x2000, 3);
    map(1, (PHYS + 0x2000) | PTE_ALL);
    CHECK_EQ(call(code), 3);
    map(1, 0);
    TRY(call(code));
    CHECK_TRAP_ERR(14, 16);
    CHECK_EQ(trap.ip, (word)code + 4096);
    map(1, (PHYS + 0x1000) | PTE_ALL | PTE_NX);
    TRY(call(code));
    CHECK_TRAP_ERR(14, 17);
    map(1, (PHYS + 0x1000) | PTE_ALL);
    CHECK_EQ(call(code), 2);
    // Code on a read-only page: the store faults, the code stays.
    map(1, (PHYS + 0x1000) | PTE_P);
    TRY(code[4097] = 9);
    CHECK_TRAP_ERR(14, 3);
    CHECK_EQ(call(code), 2);
    map(1, (PHYS + 0x1000) | PTE_ALL);
}

// Two address spaces with different code at one address.
static void address_spaces(void)
{
    static u64 top[512] __attribute__((aligned(4096))), pdpt[512] __attribute__((aligned(4096)));
    static u64 pd[512] __attribute__((aligned(4096))), pt[512] __attribute__((aligned(4096)));
    u64 first = read_cr3(), second = (u64)top;
    u64 *old_top = (u64 *)(first & 0x000ffffffffff000ull);
    u64 *old_pdpt = (u64 *)(old_top[0] & 0x000ffffffffff000ull);
    top[0] = (u64)pdpt | PTE_ALL;
    pdpt[0] = old_pdpt[0];
    pdpt[1] = (u64)pd | PTE_ALL;
    pd[0] = (u64)pt | PTE_ALL;
    pt[0] = (PHYS + 0x1000) | PTE_ALL;
    put_return(code, 1);
    put_return(code + 4096, 2);
    for (unsigned i = 0; i < 4; i++) {
        u32 r1 = call(code);
        write_cr3(second);
        u32 r2 = call(code);
        write_cr3(first);
        CHECK_EQ(r1, 1);
        CHECK_EQ(r2, 2);
    }
}

// --- elsewhere ----------------------------------------------------------------------------------------------------------

__attribute__((noinline)) static void on_stack(u32 value)
{
    u8 local[16];
    put_return(local, value);
    CHECK_EQ(call(local), value);
    local[1]++;
    CHECK_EQ(call(local), value + 1);
}

USER static word user_patch(word at)
{
    *(volatile u8 *)(at + 1) = 42;
    return call((void *)at);
}

static void from_ring3(void)
{
    put_return(code, 7);
    CHECK_EQ(call(code), 7);
    run_user(user_patch, (word)code);
    CHECK_TRAP(0x80);
    CHECK_EQ(user_result, 42);
    CHECK_EQ(call(code), 42);
}

// The same bytes as 64-bit and as 32-bit code: REX.W INC EAX, or DEC EAX; INC EAX.
static void two_modes(void)
{
    struct __attribute__((packed)) {
        u32 offset;
        u16 sel;
    } p32 = {WINDOW, SEL_CODE32}, p64 = {WINDOW, SEL_CODE};
    PUT(code, 0x48, 0xff, 0xc0, 0xcb); // 32-bit far RET in both
    for (unsigned i = 0; i < 3; i++) {
        u64 result;
        __asm__ volatile("lcall *%1" : "=a"(result) : "m"(p64), "a"(5) : "memory", "cc");
        CHECK_EQ(result, 6);
        __asm__ volatile("lcall *%1" : "=a"(result) : "m"(p32), "a"(5) : "memory", "cc");
        CHECK_EQ(result, 5);
    }
}

// Data among code: what is written is read back, and the code goes on working.
static void data_beside_code(void)
{
    // INC DWORD [rip + 250]; MOV EAX, [rip + 244]; RET
    PUT(code, 0xff, 0x05, 0xfa, 0, 0, 0, 0x8b, 0x05, 0xf4, 0, 0, 0, 0xc3);
    *(volatile u32 *)(code + 256) = 0;
    u32 sum = 0;
    for (unsigned i = 0; i < 1000; i++)
        sum += call(code);
    CHECK_EQ(sum, 500500);
    CHECK_EQ(*(volatile u32 *)(code + 256), 1000);
}

void guest_main(void)
{
    code_init();
    next_instruction();
    itself();
    loop_body();
    by_string_instructions();
    by_other_stores();
    jump_target();
    return_target();
    overlapping();
    breakpoint();
    page_crossing();
    other_address();
    remapped();
    address_spaces();
    for (u32 i = 0; i < 5; i++)
        on_stack(i * 16);
    from_ring3();
    two_modes();
    data_beside_code();
}
