// virtio over PCI: the modern register layout in memory, and the legacy one in I/O ports. VIRTIO 1.2, 4.1.
#ifndef POGO_DEV_VIRTIO_PCI_H
#define POGO_DEV_VIRTIO_PCI_H

#include "core/lock.h"
#include "dev/pci.h"
#include "dev/virtio.h"

// A transitional device serves legacy drivers, too; the legacy layout alone is for tests of such drivers.
enum virtio_pci_kind { VIRTIO_PCI_TRANSITIONAL, VIRTIO_PCI_MODERN, VIRTIO_PCI_LEGACY };

// Where a device is put, and what it may use there.
struct virtio_attach {
    struct pci_bus *bus;
    unsigned devfn; // or PCI_DEVFN_ANY
    enum virtio_pci_kind kind;
    bool no_msix;
    struct mem *mem;
    struct clock *clock;
    struct lock *dev_lock; // held around everything that happens to devices; for those with threads behind them
    struct host *host;     // for the log; may be NULL
};

struct virtio_pci {
    struct pci_dev pci;
    struct virtio *v;
    u32 offered_sel, accepted_sel; // which half of the features the driver looks at
    u16 queue_sel;
    u8 window_cap; // offset of the capability that gives access to the regions from configuration space; 0: none
};

// Put a device, whose struct virtio is complete, on the bus. `type` is its VIRTIO_ID_*, `class_code` as in struct pci_id, `vectors`
// the MSI-X vectors (0: none). Returns 0 or what pci_add() and its like return.
int virtio_pci_add(struct virtio_pci *t, struct virtio *v, const struct virtio_attach *at, u16 type, u32 class_code,
                   unsigned vectors);

#endif
