// Work for a compiler, and then for what it made.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct node {
    struct node *left, *right;
    unsigned key;
};

static unsigned seed = 7;
static unsigned rnd(void)
{
    seed = seed * 1664525u + 1013904223u;
    return seed >> 8;
}

static struct node *insert(struct node *n, unsigned key)
{
    if (!n) {
        n = calloc(1, sizeof *n);
        n->key = key;
    } else if (key < n->key) {
        n->left = insert(n->left, key);
    } else {
        n->right = insert(n->right, key);
    }
    return n;
}

static unsigned depth(const struct node *n)
{
    if (!n)
        return 0;
    unsigned l = depth(n->left), r = depth(n->right);
    return 1 + (l > r ? l : r);
}

static int by_value(const void *a, const void *b)
{
    unsigned x = *(const unsigned *)a, y = *(const unsigned *)b;
    return x < y ? -1 : x > y;
}

static double series(int n)
{
    double s = 0;
    for (int i = 1; i <= n; i++)
        s += 1.0 / ((double)i * i);
    return s;
}

static unsigned long long power(unsigned long long b, unsigned e, unsigned long long m)
{
    unsigned long long r = 1;
    for (b %= m; e; e >>= 1, b = b * b % m)
        if (e & 1)
            r = r * b % m;
    return r;
}

static const char *kind(unsigned v)
{
    switch (v % 7) {
    case 0: return "nought";
    case 1: return "one";
    case 2: return "two";
    case 5: return "five";
    default: return "many";
    }
}

int main(void)
{
    static unsigned values[5000];
    struct node *root = NULL;
    unsigned char text[2000];
    unsigned crc = ~0u, kinds = 0;
    for (unsigned i = 0; i < 5000; i++) {
        values[i] = rnd();
        root = insert(root, values[i]);
        kinds += (unsigned)strlen(kind(values[i]));
    }
    qsort(values, 5000, sizeof values[0], by_value);
    for (unsigned i = 0; i < sizeof text; i++)
        text[i] = (unsigned char)(i * i >> 3);
    for (unsigned i = 0; i < sizeof text; i++) {
        crc ^= text[i];
        for (int k = 0; k < 8; k++)
            crc = crc & 1 ? crc >> 1 ^ 0xedb88320u : crc >> 1;
    }
    printf("tree %u, sorted %u %u %u, kinds %u\n", depth(root), values[0], values[2500], values[4999], kinds);
    printf("crc %08x, series %.9f, power %llu, signed %d %d\n", ~crc, series(20000), power(3, 1000003, 1000000007),
           -7 / 2, -7 % 3);
    return 0;
}
