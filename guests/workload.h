// The loads that the core benchmark times, shared by the guest and by a native program so that the same code runs in both.
#ifndef WORKLOAD_H
#define WORKLOAD_H

#include <stddef.h>
#include <stdint.h>

// An integer loop: arithmetic, logic, shifts, a compare and a branch; no memory.
__attribute__((noinline)) static uint64_t work_int(unsigned rounds)
{
    uint64_t x = 88172645463325252ull, sum = 0;
    for (unsigned i = 0; i < rounds; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        sum += x & 0xff;
        if (x & 1)
            sum ^= i;
    }
    return sum;
}

// What a kernel does while it boots: clears and copies memory, walks lists and tables, compares strings, calls small functions
// through pointers, sorts, prints numbers.
struct work_node {
    struct work_node *next;
    uint32_t key, flags;
    char name[16];
};

static struct work_node work_nodes[512];
static unsigned char work_page[2][4096];

__attribute__((noinline)) static int work_compare(const char *a, const char *b)
{
    while (*a && *a == *b) {
        a++;
        b++;
    }
    return (unsigned char)*a - (unsigned char)*b;
}

__attribute__((noinline)) static void work_number(char *out, uint32_t v)
{
    char buf[12];
    unsigned n = 0;
    do {
        buf[n++] = (char)('0' + v % 10);
        v /= 10;
    } while (v);
    while (n)
        *out++ = buf[--n];
    *out = 0;
}

static uint32_t work_mark(struct work_node *n)
{
    return n->flags |= 1;
}
static uint32_t work_count(struct work_node *n)
{
    return n->key++;
}

__attribute__((noinline)) static struct work_node *work_insert(struct work_node *head, struct work_node *n)
{
    struct work_node **p = &head;
    while (*p && (*p)->key < n->key)
        p = &(*p)->next;
    n->next = *p;
    *p = n;
    return head;
}

__attribute__((noinline)) static uint64_t work_mix(unsigned rounds)
{
    static uint32_t (*const visit[2])(struct work_node *) = {work_mark, work_count};
    uint64_t sum = 0;
    for (unsigned r = 0; r < rounds; r++) {
        size_t n = sizeof work_page[0];
        void *to = work_page[0];
        __asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(r) : "memory");
        const void *from = work_page[0];
        to = work_page[1];
        n = sizeof work_page[0] / 8;
        __asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(n)::"memory");
        struct work_node *head = NULL;
        for (unsigned i = 0; i < 64; i++) {
            struct work_node *node = &work_nodes[i * 7 & 511];
            node->key = (i * 2654435761u + r) >> 16;
            node->flags = 0;
            work_number(node->name, node->key);
            head = work_insert(head, node);
        }
        for (struct work_node *p = head; p; p = p->next) {
            sum += visit[p->key & 1](p);
            if (work_compare(p->name, "31415") == 0)
                sum += work_page[1][p->key & 4095];
        }
    }
    return sum;
}

#define WORK_INT_ROUNDS 1000000
#define WORK_MIX_ROUNDS 400

#endif
