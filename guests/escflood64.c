// More code than anybody keeps: six megabytes of functions that all differ, run as a chain of jumps, as a tree of calls, as one call inside
// the other 50000 times over, so that code is long forgotten when it is returned to, and in random order while some of it changes.
#include "code.h"

const char guest_name[] = "escflood64";

#define REGION 0x01000000ul
#define STACK_END 0x00f00000ul
#define SIZE 64u // bytes for each function
#define COUNT 98304u

static u32 id_of[COUNT];

static u32 next_random(u32 below)
{
    static u32 seed = 1;
    seed = seed * 1664525 + 1013904223;
    return (u32)((u64)(seed >> 4) * below >> 28);
}

static u8 *function(u32 i)
{
    return (u8 *)REGION + (u64)i * SIZE;
}

static u8 *put32(u8 *at, u64 v)
{
    *(volatile u32 *)at = (u32)v;
    return at + 4;
}

// ADD EAX, id: the same at the start of every function.
static u8 *put_add(u32 i, u32 id)
{
    u8 *at = function(i);
    id_of[i] = id;
    at[0] = 0x05;
    return put32(at + 1, id);
}

static u8 *put_branch(u8 *at, u8 opcode, const u8 *to)
{
    *at = opcode;
    return put32(at + 1, (u64)(to - (at + 5)));
}

static u32 run(const u8 *fn)
{
    u64 sum = 0;
    __asm__ volatile("push %%rbp; mov %%rsp, %%rbp; mov %2, %%rsp; call *%1; mov %%rbp, %%rsp; pop %%rbp"
                     : "+a"(sum)
                     : "r"(fn), "r"(STACK_END)
                     : "rcx", "rdx", "memory", "cc");
    return (u32)sum;
}

// Every function jumps to another one, far away; the last returns.
static void chain(void)
{
    u32 sum = 0, i = 0;
    for (u32 n = 0; n < COUNT; n++) {
        u32 next = (i + 40507) % COUNT; // has no factor in common with COUNT
        u8 *at = put_add(i, next_random(1 << 20));
        sum += id_of[i];
        if (n == COUNT - 1)
            *at = 0xc3;
        else
            put_branch(at, 0xe9, function(next));
        i = next;
    }
    for (unsigned k = 0; k < 3; k++)
        CHECK_EQ(run(function(0)), sum);
    // The same with all of them changed a little.
    for (unsigned k = 0; k < 3; k++) {
        for (u32 n = k; n < COUNT; n += 7) {
            put_add(n, id_of[n] + 3);
            sum += 3;
        }
        CHECK_EQ(run(function(0)), sum);
    }
}

// Function i calls 2i + 1 and 2i + 2.
static void tree(void)
{
    u32 sum = 0;
    for (u32 i = 0; i < COUNT; i++) {
        u8 *at = put_add(i, i * 5 + 1);
        sum += id_of[i];
        for (u32 k = 1; k <= 2; k++)
            if (2 * i + k < COUNT)
                at = put_branch(at, 0xe8, function(2 * i + k));
        *at = 0xc3;
    }
    for (unsigned k = 0; k < 3; k++)
        CHECK_EQ(run(function(0)), sum);
}

// Each calls the next and does something afterwards: by the end most callers have been forgotten.
static void nest(void)
{
    const u32 depth = 50000;
    u32 want = 0;
    for (u32 i = 0; i < depth; i++) {
        u8 *at = put_add(i, i ^ 0x5555);
        if (i + 1 < depth)
            at = put_branch(at, 0xe8, function(i + 1));
        PUT(at, 0xd1, 0xc0, 0x05); // ROL EAX, 1; ADD EAX, i; RET
        at = put32(at + 3, i);
        *at = 0xc3;
        want += id_of[i];
    }
    for (u32 i = depth; i-- > 0;)
        want = (want << 1 | want >> 31) + i;
    for (unsigned k = 0; k < 4; k++)
        CHECK_EQ(run(function(0)), want);
}

// Callers that change while they wait: each callee adds one to what its caller will add when it is back.
static void nest_and_change(void)
{
    const u32 depth = 20000;
    for (u32 i = 0; i < depth; i++) {
        u8 *at = function(i);
        if (i > 0) { // INC BYTE of the caller's number, which is SIZE before here
            PUT(at, 0xfe, 0x05);
            at = put32(at + 2, (u64)(function(i - 1) + 32 + 1 - (at + 6)));
        }
        u8 *call = function(i) + 27;
        put_branch(at, 0xe9, call);
        if (i + 1 < depth)
            put_branch(call, 0xe8, function(i + 1));
        else
            PUT(call, 0x90, 0x90, 0x90, 0x90, 0x90);
        PUT(call + 5, 0x05, 0, 1, 0, 0, 0xc3); // ADD EAX, 0x100; RET
    }
    for (unsigned k = 0; k < 3; k++)
        CHECK_EQ(run(function(0)), depth * 0x100 + (depth - 1) * (k + 1));
}

// In random order, by an indirect call from here; a third of the time another one changes before.
static void random_order(void)
{
    for (u32 i = 0; i < COUNT; i++)
        put_return(function(i), id_of[i] = i * 77);
    unsigned wrong = 0;
    for (unsigned k = 0; k < 300000; k++) {
        u32 i = next_random(COUNT);
        if (k % 3 == 0) {
            u32 j = next_random(4) ? next_random(COUNT) : i;
            id_of[j] += 13;
            put32(function(j) + 1, id_of[j]);
        }
        wrong += call(function(i)) != id_of[i];
    }
    CHECK_EQ(wrong, 0);
}

void guest_main(void)
{
    chain();
    tree();
    nest();
    nest_and_change();
    random_order();
    tree(); // on memory with that past
    nest();
}
