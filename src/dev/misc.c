// Small devices; see misc.h for what each is.

#include "dev/misc.h"

#include <string.h>

static u64 debug_exit_read(void *dev, u64 off, unsigned size)
{
    (void)dev, (void)off, (void)size;
    return 0;
}

static void debug_exit_write(void *dev, u64 off, unsigned size, u64 val)
{
    struct debug_exit *d = dev;

    (void)off, (void)size;
    // An exit status has 8 bits, and must not be 0: that is for a guest that switched itself off.
    d->exit(d->sink, (int)((val << 1 | 1) & 0xff));
}

const struct dev_ops debug_exit_ops = {.name = "isa-debug-exit", .read = debug_exit_read, .write = debug_exit_write};

static u64 pvpanic_read(void *dev, u64 off, unsigned size)
{
    (void)dev, (void)off, (void)size;
    return PVPANIC_PANICKED; // what it takes
}

static void pvpanic_write(void *dev, u64 off, unsigned size, u64 val)
{
    struct pvpanic *p = dev;

    (void)off, (void)size;
    if (val & PVPANIC_PANICKED)
        p->exit(p->sink, PVPANIC_STATUS);
}

const struct dev_ops pvpanic_ops = {.name = "pvpanic", .read = pvpanic_read, .write = pvpanic_write};

static u64 debug_console_read(void *dev, u64 off, unsigned size)
{
    (void)dev, (void)off, (void)size;
    return 0xe9;
}

static void debug_console_write(void *dev, u64 off, unsigned size, u64 val)
{
    struct debug_console *d = dev;

    (void)off, (void)size;
    if (d->tx)
        d->tx(d->peer, (u8)val);
}

const struct dev_ops debug_console_ops = {.name = "debugcon", .read = debug_console_read, .write = debug_console_write};

static u64 post_port_read(void *dev, u64 off, unsigned size)
{
    struct post_port *p = dev;

    (void)off, (void)size;
    return p->last;
}

static void post_port_write(void *dev, u64 off, unsigned size, u64 val)
{
    struct post_port *p = dev;

    (void)off, (void)size;
    p->last = (u8)val;
}

const struct dev_ops post_port_ops = {.name = "post", .read = post_port_read, .write = post_port_write};

void fpu_error_ferr(void *dev, unsigned n, bool level)
{
    struct fpu_error *f = dev;

    (void)n;
    f->ferr = level;
    if (level)
        irq_set(f->irq, true);
    else
        *f->ignne = false;
}

static u64 fpu_error_read(void *dev, u64 off, unsigned size)
{
    (void)dev, (void)off, (void)size;
    return ~0ull;
}

static void fpu_error_write(void *dev, u64 off, unsigned size, u64 val)
{
    struct fpu_error *f = dev;

    (void)off, (void)size, (void)val;
    irq_set(f->irq, false);
    *f->ignne = f->ferr;
}

static void fpu_error_reset(void *dev)
{
    struct fpu_error *f = dev;

    f->ferr = false;
    *f->ignne = false;
    irq_set(f->irq, false);
}

const struct dev_ops fpu_error_ops = {
    .name = "fpu-error", .reset = fpu_error_reset, .read = fpu_error_read, .write = fpu_error_write};

static u64 port92_read(void *dev, u64 off, unsigned size)
{
    struct port92 *p = dev;

    (void)off, (void)size;
    return p->val;
}

static void port92_write(void *dev, u64 off, unsigned size, u64 val)
{
    struct port92 *p = dev;
    u8 old = p->val;

    (void)off, (void)size;
    p->val = (u8)val & 0x03;
    if ((old ^ p->val) & 0x02)
        p->set_a20(p->sink, p->val & 0x02);
    if (p->val & (u8)~old & 0x01)
        p->reset_machine(p->sink);
}

static void port92_reset(void *dev)
{
    struct port92 *p = dev;

    p->val = 0x02; // loaders and firmware of this age expect A20 to be on
    p->set_a20(p->sink, true);
}

const struct dev_ops port92_ops = {.name = "port92", .reset = port92_reset, .read = port92_read, .write = port92_write};

static u64 echo_read(void *dev, u64 off, unsigned size)
{
    struct testdev *t = dev;

    (void)size;
    return t->echo >> (off * 8);
}

static void echo_write(void *dev, u64 off, unsigned size, u64 val)
{
    struct testdev *t = dev;
    u32 mask = (size == 4 ? ~0u : (1u << size * 8) - 1) << (off * 8);

    t->echo = (t->echo & ~mask) | ((u32)val << (off * 8) & mask);
}

const struct dev_ops testdev_echo_ops = {.name = "testdev-echo", .read = echo_read, .write = echo_write};

static u64 test_irq_read(void *dev, u64 off, unsigned size)
{
    (void)dev, (void)off, (void)size;
    return 0;
}

static void test_irq_write(void *dev, u64 off, unsigned size, u64 val)
{
    struct testdev *t = dev;

    (void)size;
    if (off < TESTDEV_IRQS)
        irq_set(t->irq[off], val & 1);
}

const struct dev_ops testdev_irq_ops = {.name = "testdev-irq", .read = test_irq_read, .write = test_irq_write};

static u64 test_mem_read(void *dev, u64 off, unsigned size)
{
    const struct testdev *t = dev;
    u64 val = 0;

    if (size <= 8 && off <= TESTDEV_MEM_SIZE - size)
        memcpy(&val, t->mem + off, size);
    return val;
}

static void test_mem_write(void *dev, u64 off, unsigned size, u64 val)
{
    struct testdev *t = dev;

    if (size <= 8 && off <= TESTDEV_MEM_SIZE - size)
        memcpy(t->mem + off, &val, size);
}

const struct dev_ops testdev_mem_ops = {.name = "testdev-mem", .read = test_mem_read, .write = test_mem_write};
