// The interrupt router and power management; see piix.h.
//
// There is no system management mode. A write to the SMI command port therefore does at once what firmware's handler would do on the
// values that the ACPI tables name, and APMC_EN reads as set, which firmware takes for "somebody has set SMM up already".

#include "dev/piix.h"

#include <stdio.h>
#include <string.h>

// --- PIIX3 --------------------------------------------------------------------------------------------------------------

#define PIRQ_ROUTE 0x60
#define PIRQ_OFF 0x80u
#define ROUTABLE 0xdef8u // not 0, 1, 2, 8 and 13

static void update_isa(struct piix3 *p)
{
    u16 out = p->sci ? 1u << PIIX_SCI_IRQ : 0, changed;

    for (unsigned i = 0; i < 4; i++) {
        u8 route = p->pci.config[PIRQ_ROUTE + i];
        if ((p->pirq >> i & 1) && !(route & PIRQ_OFF))
            out |= (u16)(1u << (route & 15) & ROUTABLE);
    }
    changed = out ^ p->out;
    p->out = out;
    for (unsigned i = 0; i < 16; i++)
        if (changed >> i & 1)
            irq_set(p->isa[i], out >> i & 1);
}

void piix3_set_pirq(void *dev, unsigned n, bool level)
{
    struct piix3 *p = dev;

    p->pirq = (u8)((p->pirq & ~(1u << n)) | (u32)level << n);
    update_isa(p);
    irq_set(p->direct[n], level);
}

void piix3_set_sci(void *dev, unsigned n, bool level)
{
    struct piix3 *p = dev;

    (void)n;
    p->sci = level;
    update_isa(p);
}

void piix3_route(struct piix3 *p, const u8 irq[4])
{
    for (unsigned i = 0; i < 4; i++)
        pci_config_write(&p->pci, PIRQ_ROUTE + i, 1, irq[i]);
}

static void piix3_reset(void *self)
{
    update_isa(self);
}

static void piix3_config_written(void *self, unsigned off, unsigned size)
{
    if (off < PIRQ_ROUTE + 4 && off + size > PIRQ_ROUTE)
        update_isa(self);
}

static void piix3_dump(void *self, char *buf, size_t size)
{
    const struct piix3 *p = self;
    const u8 *route = &p->pci.config[PIRQ_ROUTE];

    snprintf(buf, size, "routes %02x %02x %02x %02x pirq %x sci %d isa %04x", route[0], route[1], route[2], route[3],
             p->pirq, p->sci, p->out);
}

static const struct pci_dev_ops piix3_pci_ops = {
    .name = "PIIX3", .reset = piix3_reset, .config_written = piix3_config_written, .dump = piix3_dump};

static const struct pci_id piix3_id = {
    .vendor = 0x8086, .device = 0x7000, .subvendor = 0x1af4, .subdevice = 0x1100, .class_code = 0x060100};

int piix3_init(struct piix3 *p, struct pci_bus *bus)
{
    // Registers that keep what is written: offset, contents after reset. Data sheet 2.2.
    static const u8 kept[][2] = {{0x4c, 0x4d}, {0x4e, 0x03}, {0x69, 0x02}, {0x70, 0x80}, {0x76, 0x0c}, {0x77, 0x0c},
                                 {0x78, 0x02}, {0xa0, 0x08}, {0xa8, 0x0f}, {0xaa, 0x00}, {0xac, 0x00}, {0xae, 0x00}};
    struct pci_dev *d = &p->pci;

    pci_dev_init(d, &piix3_id, &piix3_pci_ops, p);
    d->initial[PCI_COMMAND] = PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER; // hardwired
    d->wmask[PCI_COMMAND] = 0x08;
    d->wmask[PCI_COMMAND + 1] = 0;
    d->initial[PCI_STATUS + 1] = 0x02;
    for (unsigned i = 0; i < 4; i++) {
        d->initial[PIRQ_ROUTE + i] = PIRQ_OFF;
        d->wmask[PIRQ_ROUTE + i] = 0x8f;
    }
    for (unsigned i = 0; i < ARRAY_LEN(kept); i++) {
        d->initial[kept[i][0]] = kept[i][1];
        d->wmask[kept[i][0]] = 0xff;
    }
    p->pirq = 0;
    p->out = 0;
    p->sci = false;
    return pci_add(bus, d, PCI_DEVFN(1, 0));
}

// --- PIIX4 power management -----------------------------------------------------------------------------------------------

#define PM_BASE 0x40
#define PM_MISC 0x80 // bit 0: ports on
#define DEVACTB 0x58 // bit 25: APMC_EN
#define SMBUS_BASE 0x90
#define SMBUS_CONFIG 0xd2 // bit 0: ports on
#define PM_REGION PCI_REGION_EXTRA
#define SMBUS_REGION (PCI_REGION_EXTRA + 1)

#define STS_TIMER 0x0001u
#define STS_GLOBAL 0x0020u
#define STS_POWER_BUTTON 0x0100u
#define STS_RTC 0x0400u
#define STS_CLEARABLE 0x8d31u
#define EN_BITS (STS_TIMER | STS_GLOBAL | STS_POWER_BUTTON | STS_RTC)
#define CNT_SCI_EN 0x0001u
#define CNT_WRITABLE 0x1c03u
#define CNT_SLP_EN 0x2000u
#define CNT_SLP_TYP(c) ((c) >> 10 & 7)

#define TIMER_HALF (1u << 23) // TMR_STS is set when bit 23 changes
#define TIMER_MASK 0xffffffu
#define NS_PER_S 1000000000ull

static u64 ticks_now(const struct piix4_pm *p)
{
    u64 ns = clock_now(p->clock);

    return ns / NS_PER_S * PIIX4_TIMER_HZ + ns % NS_PER_S * PIIX4_TIMER_HZ / NS_PER_S;
}

// The first nanosecond at which the counter shows `ticks`.
static u64 ns_at(u64 ticks)
{
    return ticks / PIIX4_TIMER_HZ * NS_PER_S +
           (ticks % PIIX4_TIMER_HZ * NS_PER_S + PIIX4_TIMER_HZ - 1) / PIIX4_TIMER_HZ;
}

static void next_overflow(struct piix4_pm *p)
{
    p->overflow = (ticks_now(p) / TIMER_HALF + 1) * TIMER_HALF;
}

static void update_sci(struct piix4_pm *p)
{
    bool level;

    if (ticks_now(p) >= p->overflow)
        p->status |= STS_TIMER;
    level = (p->control & CNT_SCI_EN) && ((p->status & p->enable & EN_BITS) || (p->gpe_status & p->gpe_enable));
    irq_set(p->sci, level);
    // The timer interrupts only when that would be something new.
    if ((p->enable & STS_TIMER) && !(p->status & STS_TIMER))
        clock_arm(p->clock, &p->timer, ns_at(p->overflow));
    else
        clock_disarm(p->clock, &p->timer);
}

static void pm_timer(void *dev, u64 now_ns)
{
    (void)now_ns;
    update_sci(dev);
}

bool piix4_power_button(struct piix4_pm *p)
{
    p->status |= STS_POWER_BUTTON;
    update_sci(p);
    return (p->control & CNT_SCI_EN) && (p->enable & STS_POWER_BUTTON);
}

static u8 byte_of(u32 val, unsigned off)
{
    return (u8)(val >> (off & 3) * 8);
}

static u8 pm_read_byte(struct piix4_pm *p, unsigned off)
{
    switch (off & ~3u) {
    case PIIX4_PM1_EVENT: return byte_of(p->status | (u32)p->enable << 16, off);
    case PIIX4_PM1_CONTROL: return byte_of(p->control, off);
    case PIIX4_PM_TIMER: return byte_of((u32)ticks_now(p) & TIMER_MASK, off);
    case PIIX4_GPE0: return byte_of(p->gpe_status | (u32)p->gpe_enable << 16, off);
    default: return p->other[off];
    }
}

static u64 pm_read(void *dev, u64 off, unsigned size)
{
    struct piix4_pm *p = dev;
    u64 val = 0;

    if (off == PIIX4_PM_TIMER && size == 4) // in one piece
        return ticks_now(p) & TIMER_MASK;
    update_sci(p);
    for (unsigned i = 0; i < size && off + i < PIIX4_PM_PORTS; i++)
        val |= (u64)pm_read_byte(p, (unsigned)off + i) << i * 8;
    return val;
}

static void set_byte(u16 *reg, unsigned off, u8 val)
{
    unsigned shift = (off & 1) * 8;

    *reg = (u16)((*reg & ~(0xffu << shift)) | (u32)val << shift);
}

static void clear_status(struct piix4_pm *p, u16 bits)
{
    p->status &= (u16) ~(bits & STS_CLEARABLE);
    if (bits & STS_TIMER)
        next_overflow(p);
}

static void write_control(struct piix4_pm *p, unsigned off, u8 val)
{
    bool sleep = (off & 1) && (val & CNT_SLP_EN >> 8);

    set_byte(&p->control, off, val);
    p->control &= CNT_WRITABLE; // SLP_EN reads as zero
    // No other sleeping state is announced; a guest that asks for one goes on as if woken at once.
    if (sleep && CNT_SLP_TYP(p->control) == PIIX4_SLP_S5)
        p->power_off(p->sink, 0);
}

static void pm_write_byte(struct piix4_pm *p, unsigned off, u8 val)
{
    switch (off) {
    case 0x00:
    case 0x01: clear_status(p, (u16)(val << off * 8)); break;
    case 0x02:
    case 0x03: set_byte(&p->enable, off, val); break;
    case 0x04:
    case 0x05: write_control(p, off, val); break;
    case 0x0c:
    case 0x0d: p->gpe_status &= (u16) ~(val << (off & 1) * 8); break;
    case 0x0e:
    case 0x0f: set_byte(&p->gpe_enable, off, val); break;
    default: p->other[off] = val; break;
    }
}

static void pm_write(void *dev, u64 off, unsigned size, u64 val)
{
    struct piix4_pm *p = dev;

    update_sci(p); // a status bit that is due is there to be cleared
    for (unsigned i = 0; i < size && off + i < PIIX4_PM_PORTS; i++)
        pm_write_byte(p, (unsigned)off + i, (u8)(val >> i * 8));
    update_sci(p);
}

static const struct dev_ops pm_ops = {.name = "piix4-pm", .read = pm_read, .write = pm_write};

// The SMI command and status ports.
static u64 apm_read(void *dev, u64 off, unsigned size)
{
    (void)size;
    return ((struct piix4_pm *)dev)->apm[off & 1];
}

static void apm_write(void *dev, u64 off, unsigned size, u64 val)
{
    struct piix4_pm *p = dev;

    (void)size;
    p->apm[off & 1] = (u8)val;
    if (off == 0 && val == PIIX4_ACPI_ENABLE)
        p->control |= CNT_SCI_EN;
    if (off == 0 && val == PIIX4_ACPI_DISABLE)
        p->control &= (u16)~CNT_SCI_EN;
    update_sci(p);
}

const struct dev_ops piix4_apm_ops = {.name = "piix4-apm", .read = apm_read, .write = apm_write};

// The SMBus host controller, with nobody on the bus: every transaction ends in a device error.
#define SMB_STATUS 0
#define SMB_STATUS_DEVICE_ERROR 0x04u
#define SMB_CONTROL 2
#define SMB_CONTROL_START 0x40u

static u64 smbus_read(void *dev, u64 off, unsigned size)
{
    (void)size;
    return ((struct piix4_pm *)dev)->smbus[off & (PIIX4_SMBUS_PORTS - 1)];
}

static void smbus_write(void *dev, u64 off, unsigned size, u64 val)
{
    u8 *reg = ((struct piix4_pm *)dev)->smbus;

    (void)size;
    switch (off) {
    case SMB_STATUS: reg[SMB_STATUS] &= (u8)~val; break;
    case SMB_CONTROL:
        reg[SMB_CONTROL] = (u8)val & (u8)~SMB_CONTROL_START;
        if (val & SMB_CONTROL_START)
            reg[SMB_STATUS] |= SMB_STATUS_DEVICE_ERROR;
        break;
    default: reg[off & (PIIX4_SMBUS_PORTS - 1)] = (u8)val; break;
    }
}

static const struct dev_ops smbus_ops = {.name = "piix4-smbus", .read = smbus_read, .write = smbus_write};

static void place_ports(struct piix4_pm *p)
{
    const u8 *c = p->pci.config;

    pci_place_extra(&p->pci, PM_REGION, pci_get16(c, PM_BASE) & 0xffc0, c[PM_MISC] & 1);
    pci_place_extra(&p->pci, SMBUS_REGION, pci_get16(c, SMBUS_BASE) & 0xfff0, c[SMBUS_CONFIG] & 1);
}

void piix4_pm_place(struct piix4_pm *p, u16 pm_base, u16 smbus_base)
{
    pci_config_write(&p->pci, PM_BASE, 4, pm_base);
    pci_config_write(&p->pci, PM_MISC, 1, 1);
    pci_config_write(&p->pci, SMBUS_BASE, 4, smbus_base);
    pci_config_write(&p->pci, SMBUS_CONFIG, 1, 0x09); // interrupts by IRQ 9
    pci_config_write(&p->pci, PCI_COMMAND, 2, PCI_COMMAND_IO);
    pci_config_write(&p->pci, PCI_INTERRUPT_LINE, 1, PIIX_SCI_IRQ);
}

static void pm_config_written(void *self, unsigned off, unsigned size)
{
    (void)off, (void)size;
    place_ports(self);
}

static void pm_reset(void *self)
{
    struct piix4_pm *p = self;

    p->status = p->enable = p->control = 0;
    p->gpe_status = p->gpe_enable = 0;
    memset(p->apm, 0, sizeof(p->apm));
    memset(p->smbus, 0, sizeof(p->smbus));
    memset(p->other, 0, sizeof(p->other));
    next_overflow(p);
    update_sci(p);
    place_ports(p);
}

static void pm_dump(void *self, char *buf, size_t size)
{
    struct piix4_pm *p = self;

    snprintf(buf, size, "status %04x enable %04x control %04x gpe %04x/%04x timer %06x ports %04x", p->status,
             p->enable, p->control, p->gpe_status, p->gpe_enable, (u32)ticks_now(p) & TIMER_MASK,
             pci_get16(p->pci.config, PM_BASE) & 0xffc0);
}

static const struct pci_dev_ops pm_pci_ops = {
    .name = "PIIX4 PM", .reset = pm_reset, .config_written = pm_config_written, .dump = pm_dump};

static const struct pci_id pm_id = {.vendor = 0x8086,
                                    .device = 0x7113,
                                    .subvendor = 0x1af4,
                                    .subdevice = 0x1100,
                                    .class_code = 0x068000,
                                    .revision = 0x03};

int piix4_pm_init(struct piix4_pm *p, struct pci_bus *bus)
{
    struct pci_dev *d = &p->pci;
    int ret;

    p->timer = (struct clock_timer){.fire = pm_timer, .dev = p};
    ret = clock_add_timer(p->clock, &p->timer);
    if (ret)
        return ret;
    pci_dev_init(d, &pm_id, &pm_pci_ops, p);
    pci_set_pin(d, 1);
    d->wmask[PCI_COMMAND] = PCI_COMMAND_IO;
    d->initial[PCI_STATUS] = 0x80;
    d->initial[PCI_STATUS + 1] = 0x02;
    d->initial[PM_BASE] = d->initial[SMBUS_BASE] = 1; // an I/O range
    pci_put16(d->wmask, PM_BASE, 0xffc0);
    d->wmask[PM_MISC] = 1;
    pci_put16(d->wmask, SMBUS_BASE, 0xfff0);
    d->wmask[SMBUS_CONFIG] = 0x0f;
    for (unsigned i = 0x44; i < 0x80; i++)
        d->wmask[i] = 0xff;
    d->initial[DEVACTB + 3] = 0x02;
    d->region[PM_REGION] = (struct pci_region){.kind = PCI_REGION_IO, .size = PIIX4_PM_PORTS, .ops = &pm_ops, .dev = p};
    d->region[SMBUS_REGION] = (struct pci_region){
        .kind = PCI_REGION_IO, .size = PIIX4_SMBUS_PORTS, .max_size = 1, .ops = &smbus_ops, .dev = p};
    return pci_add(bus, d, PCI_DEVFN(1, 3));
}
