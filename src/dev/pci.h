// PCI: one bus, its configuration space (mechanism #1), base address registers, INTx pins and MSI-X. PCI Local Bus 3.0.
//
// A device embeds a struct pci_dev, fills in its identity, adds base address registers and capabilities while the machine is
// built, and puts itself on the bus. From then on the bus answers configuration accesses, and hands accesses to the ranges
// that the guest gave the registers to the region's dev_ops, with `off` counted from the start of the region.
//
// The guest may move ranges at any time. So that the machine's maps never change, the board gives the bus whole windows (struct
// pci_window): memory in the PCI hole, and every port that nobody else claims. Inside them the bus looks up whose range it is.
// What a range shares with RAM or with a device of the board is not the bus's to see: those win. Of two ranges that overlap,
// the one of the device that came to the bus first is decoded, the other not at all until one of them moves.
//
// Called with machine.dev_lock held, like every device.
#ifndef POGO_DEV_PCI_H
#define POGO_DEV_PCI_H

#include "core/dev.h"
#include "pogo/types.h"

#define PCI_DEVFN(slot, fn) ((slot) << 3 | (fn))
#define PCI_DEVFN_ANY 0x100 // the first free slot
#define PCI_SLOT(devfn) ((devfn) >> 3)
#define PCI_CONFIG_SIZE 256
#define PCI_MAX_RANGES 128 // that the bus decodes at a time, of each kind (I/O, memory)

// Configuration space.
#define PCI_VENDOR_ID 0x00
#define PCI_DEVICE_ID 0x02
#define PCI_COMMAND 0x04
#define PCI_COMMAND_IO 0x0001u
#define PCI_COMMAND_MEMORY 0x0002u
#define PCI_COMMAND_MASTER 0x0004u
#define PCI_COMMAND_INTX_DISABLE 0x0400u
#define PCI_STATUS 0x06
#define PCI_STATUS_INTERRUPT 0x0008u
#define PCI_STATUS_CAP_LIST 0x0010u
#define PCI_REVISION 0x08
#define PCI_CLASS_PROG 0x09
#define PCI_HEADER_TYPE 0x0e
#define PCI_BAR0 0x10
#define PCI_SUBSYSTEM_VENDOR_ID 0x2c
#define PCI_SUBSYSTEM_ID 0x2e
#define PCI_CAP_POINTER 0x34
#define PCI_INTERRUPT_LINE 0x3c
#define PCI_INTERRUPT_PIN 0x3d
#define PCI_CAP_VENDOR 0x09
#define PCI_CAP_MSIX 0x11

enum pci_region_kind { PCI_REGION_NONE, PCI_REGION_IO, PCI_REGION_MEM32, PCI_REGION_MEM64 };

// Regions 0 to 5 are base address registers; the others are I/O ranges that a device places by registers of its own.
#define PCI_BARS 6
#define PCI_REGION_EXTRA 6
#define PCI_REGIONS 8

struct pci_region {
    enum pci_region_kind kind;
    bool prefetch;             // memory: reads have no side effects
    u8 max_size;               // widest access that the handlers understand, 1 to 8; wider ones are split. 0 means 4
    u64 size;                  // power of two: at least 4 (I/O), 16 (memory)
    const struct dev_ops *ops; // NULL: reads give all ones
    void *dev;
    u64 base;    // where it is, if `mapped`
    bool mapped; // the bus decodes it
    bool wanted; // extra regions: the device switched it on
};

struct pci_msix_vector {
    u32 addr_lo, addr_hi, data, control; // control bit 0: masked
};

#define PCI_MSIX_MAX_VECTORS 128
struct pci_msix {
    u8 cap; // offset in configuration space; 0: the device has no MSI-X
    u8 table_bar, pba_bar;
    u32 table_off, pba_off;
    unsigned count;
    struct pci_msix_vector vector[PCI_MSIX_MAX_VECTORS];
    u64 pending[PCI_MSIX_MAX_VECTORS / 64];
};

struct pci_id {
    u16 vendor, device, subvendor, subdevice;
    u32 class_code; // class << 16 | subclass << 8 | programming interface
    u8 revision;
};

struct pci_dev;

// What a device does beside its regions; all may be NULL.
struct pci_dev_ops {
    const char *name;
    // Bus or machine reset: configuration space is back to its initial state already.
    void (*reset)(void *self);
    // The guest is about to read [off, off+size): the device may put fresh bytes into d->config.
    void (*config_read)(void *self, unsigned off, unsigned size);
    // The guest wrote [off, off+size), and the writable bits changed; size 1, 2 or 4, within a dword.
    void (*config_written)(void *self, unsigned off, unsigned size);
    // Text for the monitor.
    void (*dump)(void *self, char *buf, size_t size);
};

struct pci_dev {
    const struct pci_dev_ops *ops;
    void *self; // first argument of ops
    struct pci_bus *bus;
    u16 devfn;
    u8 config[PCI_CONFIG_SIZE];
    u8 initial[PCI_CONFIG_SIZE]; // contents after reset
    u8 wmask[PCI_CONFIG_SIZE];   // bits that the guest can write
    u8 w1c[PCI_CONFIG_SIZE];     // bits that a written 1 clears
    struct pci_region region[PCI_REGIONS];
    struct pci_msix msix;
    u8 cap_end;  // first byte free for a capability
    u8 cap_last; // offset of the last capability; 0: none
    bool intx;   // what the device asks of its pin
    bool pirq;   // what the bus sees of it
};

// A part of the machine's address space that belongs to the bus: `dev` of pci_mem_ops.
struct pci_window {
    struct pci_bus *bus;
    u64 base; // bus address of offset 0
};

struct pci_range {
    u64 base, last;
    struct pci_dev *dev;
    u8 region;
};

struct pci_map {
    struct pci_range range[PCI_MAX_RANGES]; // sorted, disjoint
    unsigned count, hit;                    // hit: where the last look-up ended
};

struct pci_bus {
    struct irq_line pirq[4]; // PIRQA to PIRQD; true means asserted
    // An interrupt message: a 32-bit write of `data` to `addr`.
    void (*msi)(void *sink, u64 addr, u32 data);
    void (*reset_machine)(void *sink);
    void *sink; // of msi and reset_machine

    struct pci_dev *dev[256]; // by devfn
    struct pci_dev *order[256];
    unsigned count;
    u32 address;            // port 0xcf8
    u8 reset_control;       // port 0xcf9
    unsigned pirq_users[4]; // devices that assert it
    struct pci_map io, mem;
};

// --- the bus -----------------------------------------------------------------------------------------------------------

#define PCI_HOST_PORT 0xcf8               // eight ports
extern const struct dev_ops pci_host_ops; // dev is the struct pci_bus
extern const struct dev_ops pci_io_ops;   // dev is the struct pci_bus; offset 0 is port 0
extern const struct dev_ops pci_mem_ops;  // dev is a struct pci_window

// An empty bus; keeps pirq, msi, reset_machine and sink.
void pci_bus_init(struct pci_bus *b);
// Reset the bus and everything on it.
void pci_bus_reset(struct pci_bus *b);
// Text for the monitor: what is on the bus, and where.
void pci_bus_dump(struct pci_bus *b, char *buf, size_t size);

// Where firmware would put things. Memory windows: [base, end).
struct pci_windows {
    u64 io_base, io_end, mem_base, mem_end;
    u64 mem64_base, mem64_end; // for what does not fit below 4 GiB; both 0: none
    u8 irq[4];                 // of PIRQA to PIRQD, for the interrupt line registers
};
// What firmware does before an operating system starts: places every base address register, switches decoding on and fills
// in interrupt lines. A region that fits nowhere stays off.
void pci_assign(struct pci_bus *b, const struct pci_windows *w);

// --- building a device -------------------------------------------------------------------------------------------------

// Begin: identity, header, command and status registers. `self` is the argument of `ops`.
void pci_dev_init(struct pci_dev *d, const struct pci_id *id, const struct pci_dev_ops *ops, void *self);
// Base address register `bar` (MEM64 takes the next one, too). Returns 0, or -EINVAL: bad size, register taken or absent.
// `prefetch` and `max_size` may be set in d->region[bar] after it, before pci_add().
int pci_add_bar(struct pci_dev *d, unsigned bar, enum pci_region_kind kind, u64 size, const struct dev_ops *ops,
                void *dev);
// Capability of `len` bytes, header included; bytes after the header are zero and read-only until the caller fills d->initial,
// and d->wmask. Returns its offset, or -ENOSPC.
int pci_add_cap(struct pci_dev *d, u8 id, unsigned len);
// MSI-X with `count` vectors: the table lies in region `bar` at `off`, the pending bits follow at `pba_off` of the same. The
// bus answers there, whatever handler the region has. Returns 0, -EINVAL (does not fit the region, overlap, count), -ENOSPC.
int pci_add_msix(struct pci_dev *d, unsigned count, unsigned bar, u32 off, u32 pba_off);
// Interrupt pin: 1 INTA to 4 INTD.
void pci_set_pin(struct pci_dev *d, unsigned pin);
// Done: put it on the bus, in reset state. `devfn`: a place, or PCI_DEVFN_ANY. Returns 0, -EBUSY (taken), -ENOSPC, -EINVAL. The
// device stays the caller's and must outlive the bus.
int pci_add(struct pci_bus *b, struct pci_dev *d, unsigned devfn);

// --- a device at work ---------------------------------------------------------------------------------------------------

static inline u16 pci_get16(const u8 *config, unsigned off)
{
    return (u16)(config[off] | config[off + 1] << 8);
}

static inline u32 pci_get32(const u8 *config, unsigned off)
{
    return pci_get16(config, off) | (u32)pci_get16(config, off + 2) << 16;
}

static inline void pci_put16(u8 *config, unsigned off, u16 val)
{
    config[off] = (u8)val;
    config[off + 1] = (u8)(val >> 8);
}

static inline void pci_put32(u8 *config, unsigned off, u32 val)
{
    pci_put16(config, off, (u16)val);
    pci_put16(config, off + 2, (u16)(val >> 16));
}

// May the device read and write memory (and send messages)?
static inline bool pci_bus_master(const struct pci_dev *d)
{
    return pci_get16(d->config, PCI_COMMAND) & PCI_COMMAND_MASTER;
}

// Level of the INTx pin. Independent of MSI-X: a device uses it only while pci_msix_enabled() is false.
void pci_intx(struct pci_dev *d, bool level);
bool pci_msix_enabled(const struct pci_dev *d);
// Send the message of a vector, or note it as pending while it is masked. Ignored when MSI-X is off or there is no such vector.
void pci_msix_notify(struct pci_dev *d, unsigned vector);
// Forget what is pending for a vector (the driver took it away from its use).
void pci_msix_clear(struct pci_dev *d, unsigned vector);
// Access a region as the guest would at its offset, mapped or not: for windows into it. All ones when outside.
u64 pci_region_read(struct pci_dev *d, unsigned region, u64 off, unsigned size);
void pci_region_write(struct pci_dev *d, unsigned region, u64 off, unsigned size, u64 val);
// Place an extra I/O region (kind, size, ops and dev set by the device): a device calls it from config_written and reset.
void pci_place_extra(struct pci_dev *d, unsigned region, u64 base, bool on);
// Configuration access by the processor; off below 256, size 1, 2 or 4 within a dword.
u32 pci_config_read(struct pci_dev *d, unsigned off, unsigned size);
void pci_config_write(struct pci_dev *d, unsigned off, unsigned size, u32 val);

#endif
