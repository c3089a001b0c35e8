// The board's PCI side: the bus and its bridges, and what firmware would have done with them, and told the operating system about
// the machine, when there is no firmware.
//
//   c0000000 .. febfffff   PCI memory below 4 GiB
//   from the end of RAM    PCI memory above, for what is large: 32 GiB where the processor model has that many addresses
//   ports                  all that no device of the board has

#include <errno.h>
#include <string.h>

#include "board/mptable.h"
#include "board/pc.h"
#include "pogo/version.h"

#define PCI_MEM_BASE 0xc0000000ull
#define PCI_MEM_END IOAPIC_BASE
#define PCI_MEM64_SIZE (32ull << 30)
// Ports that firmware gives away. Below 0xc000 guests expect boards to have theirs.
#define PCI_IO_BASE 0xc000
#define PCI_IO_END 0x10000

#define PM_BASE 0x600
#define SMBUS_BASE 0x700
#define RESET_FULL 0x06

// The last 64 KiB below 1 MiB, where the root pointers are looked for. Reserved in the memory map, RAM without a ROM.
#define TABLES_BASE 0xf0000ull
#define TABLES_SIZE 0xff00u
#define RESET_VECTOR 0xffff0ull

static const u8 pirq_irq[4] = {10, 11, 10, 11};

// --- wiring -----------------------------------------------------------------------------------------------------------

static void set_pirq(void *sink, unsigned n, bool level)
{
    piix3_set_pirq(&((struct pc *)sink)->piix3, n, level);
}

static void set_sci(void *sink, unsigned n, bool level)
{
    piix3_set_sci(&((struct pc *)sink)->piix3, n, level);
}

// PIRQA to PIRQD are also the I/O APIC's inputs 16 to 19.
static void set_direct(void *sink, unsigned n, bool level)
{
    ioapic_set_irq(&((struct pc *)sink)->ioapic, n, level);
}

static void reset_machine(void *sink)
{
    machine_stop(&((struct pc *)sink)->m, VM_EXIT_RESET, 0);
}

static void power_off(void *sink, int status)
{
    machine_stop(&((struct pc *)sink)->m, VM_EXIT_POWEROFF, status);
}

// Above RAM, aligned to its size. Nothing where the processor cannot reach that far.
static int add_window64(struct pc *b)
{
    u64 ram_end = b->ram_size > PCI_MEM_BASE ? PC_HIGH_RAM + (b->ram_size - PCI_MEM_BASE) : PC_HIGH_RAM;
    u64 base = (ram_end + PCI_MEM64_SIZE - 1) & ~(PCI_MEM64_SIZE - 1);

    if (b->m.mem.phys_mask && base + (PCI_MEM64_SIZE - 1) > b->m.mem.phys_mask)
        return 0;
    b->pci_window[1] = (struct pci_window){&b->pci, base};
    return mem_add_mmio(&b->m.mem, base, PCI_MEM64_SIZE, &pci_mem_ops, &b->pci_window[1], "pci-high");
}

static int add_bridges(struct pc *b)
{
    int ret;

    b->host_bridge.map = pc_map_areas;
    b->host_bridge.sink = b;
    b->host_bridge.all_ram = !b->rom_size;
    ret = i440fx_init(&b->host_bridge, &b->pci);
    for (unsigned i = 0; i < 16; i++)
        b->piix3.isa[i] = pc_pci_irq(b, i);
    for (unsigned i = 0; i < 4; i++)
        b->piix3.direct[i] = (struct irq_line){set_direct, b, PC_GSI_PIRQA + i};
    if (!ret)
        ret = piix3_init(&b->piix3, &b->pci);
    b->pm.sci = (struct irq_line){set_sci, b, 0};
    b->pm.clock = &b->m.clock;
    b->pm.power_off = power_off;
    b->pm.sink = b;
    return ret ? ret : piix4_pm_init(&b->pm, &b->pci);
}

int pc_wire_pci(struct pc *b)
{
    int ret;

    for (unsigned i = 0; i < 4; i++)
        b->pci.pirq[i] = (struct irq_line){set_pirq, b, i};
    b->pci.msi = pc_msi;
    b->pci.reset_machine = reset_machine;
    b->pci.sink = b;
    pci_bus_init(&b->pci);
    bus_set_fallback(&b->m.bus, &pci_io_ops, &b->pci);
    b->pci_window[0] = (struct pci_window){&b->pci, PCI_MEM_BASE};
    ret = mem_add_mmio(&b->m.mem, PCI_MEM_BASE, PCI_MEM_END - PCI_MEM_BASE, &pci_mem_ops, &b->pci_window[0], "pci");
    if (!ret)
        ret = add_window64(b);
    return ret ? ret : add_bridges(b);
}

// --- in place of firmware -----------------------------------------------------------------------------------------------

static void set_up_pci(struct pc *b)
{
    struct pci_windows w = {
        .io_base = PCI_IO_BASE, .io_end = PCI_IO_END, .mem_base = PCI_MEM_BASE, .mem_end = PCI_MEM_END};
    u16 level = 1u << PIIX_SCI_IRQ;

    memcpy(w.irq, pirq_irq, sizeof(w.irq));
    if (b->pci_window[1].bus) {
        w.mem64_base = b->pci_window[1].base;
        w.mem64_end = w.mem64_base + PCI_MEM64_SIZE;
    }
    pci_assign(&b->pci, &w);
    piix3_route(&b->piix3, pirq_irq);
    piix4_pm_place(&b->pm, PM_BASE, SMBUS_BASE);
    for (unsigned i = 0; i < 4; i++)
        level |= (u16)(1u << pirq_irq[i]);
    i8259_elcr_ops.write(&b->pic, 0, 1, level & 0xff);
    i8259_elcr_ops.write(&b->pic, 1, 1, level >> 8);
}

// What is there, by who answers.
struct acpi_params pc_acpi_params(const struct pc *b)
{
    static const u16 com_port[4] = {0x3f8, 0x2f8, 0x3e8, 0x2e8};
    const struct mem_region *hpet;
    struct acpi_params p = {.cpus = b->m.vcpu_count,
                            .lapic = LAPIC_BASE,
                            .ioapic = IOAPIC_BASE,
                            .sci_irq = PIIX_SCI_IRQ,
                            .pm_base = PM_BASE,
                            .smbus_base = SMBUS_BASE,
                            .apm_port = PIIX4_APM_PORT,
                            .acpi_enable = PIIX4_ACPI_ENABLE,
                            .acpi_disable = PIIX4_ACPI_DISABLE,
                            .reset_port = PCI_HOST_PORT + 1,
                            .reset_value = RESET_FULL,
                            .slp_typ_s5 = PIIX4_SLP_S5,
                            .mem_base = PCI_MEM_BASE,
                            .mem_end = PCI_MEM_END};

    if (b->pci_window[1].bus) {
        p.mem64_base = b->pci_window[1].base;
        p.mem64_end = p.mem64_base + PCI_MEM64_SIZE;
    }
    for (unsigned i = 0; i < ARRAY_LEN(com_port); i++)
        if (b->m.bus.port_owner[com_port[i]]) {
            p.com[i] = com_port[i];
            p.com_irq[i] = i & 1 ? 3 : 4;
        }
    p.pvpanic = b->pvpanic_port;
    p.fw_cfg = FW_CFG_PORT;
    p.i8042 = b->m.bus.port_owner[0x60] && b->m.bus.port_owner[0x64];
    hpet = mem_find(&b->m.mem, HPET_BASE);
    p.hpet = hpet && hpet->kind == MEM_MMIO ? HPET_BASE : 0;
    return p;
}

struct smbios_params pc_smbios_params(const struct pc *b)
{
    const struct vcpu *v = b->m.vcpu[0];
    u64 low = pc_low_ram(b);

    return (struct smbios_params){.cpus = b->m.vcpu_count,
                                  .signature = cpu_model_signature(v->model),
                                  .features = cpuid_guest(v, 1, 0).edx,
                                  .cpu_vendor = v->model->vendor,
                                  .cpu_name = v->model->brand,
                                  .ram_low = low,
                                  .ram_high = b->ram_size - low,
                                  .high_base = PC_HIGH_RAM,
                                  .version = POGO_VERSION};
}

#define MTRR_UC 0u
#define MTRR_WB 6u
#define MTRR_ENABLE 0xc00u // fixed ranges, too
#define MTRR_VALID 0x800u
#define MTRR_FIX_A0000 2 // 16 KiB ranges from 0xa0000 to 0xbffff

static void set_mtrr(struct vcpu *v, unsigned n, u64 base, u64 size)
{
    u64 phys = v->model->maxphyaddr < 64 ? (1ull << v->model->maxphyaddr) - 1 : ~0ull;

    v->cpu.msr.mtrr_base[n] = base | MTRR_UC;
    v->cpu.msr.mtrr_mask[n] = (~(size - 1) & phys) | MTRR_VALID;
}

// Everything is cached but for where devices may be. It changes nothing here, but kernels that find the registers blank do
// without what depends on them.
static void set_up_mtrrs(struct pc *b, struct vcpu *v)
{
    struct cpu_msrs *m = &v->cpu.msr;

    if (!cpu_model_has(v->model, ISA_FEAT_MTRR))
        return;
    m->mtrr_def_type = MTRR_ENABLE | MTRR_WB;
    for (unsigned i = 0; i < ARRAY_LEN(m->mtrr_fix); i++)
        m->mtrr_fix[i] = i == MTRR_FIX_A0000 ? 0 : MTRR_WB * 0x0101010101010101ull;
    set_mtrr(v, 0, PCI_MEM_BASE, PC_HIGH_RAM - PCI_MEM_BASE);
    if (b->pci_window[1].bus)
        set_mtrr(v, 1, b->pci_window[1].base, PCI_MEM64_SIZE);
    v->engine->push_state(v);
}

// Who jumps to the reset vector wants a reset: mov dx, 0xcf9; mov al, 6; out dx, al; 1: hlt; jmp 1b
static void put_reset_vector(struct pc *b)
{
    static const u8 code[] = {0xba, 0xf9, 0x0c, 0xb0, 0x06, 0xee, 0xf4, 0xeb, 0xfd};

    mem_write(&b->m.mem, RESET_VECTOR, code, sizeof(code));
}

static struct mptable_params describe_wiring(const struct pc *b)
{
    const struct smbios_params s = pc_smbios_params(b);

    return (struct mptable_params){.cpus = b->m.vcpu_count,
                                   .signature = s.signature,
                                   .features = s.features,
                                   .lapic = (u32)LAPIC_BASE,
                                   .ioapic = (u32)IOAPIC_BASE,
                                   .ioapic_id = (u8)b->m.vcpu_count,
                                   .gsi_pirqa = PC_GSI_PIRQA};
}

// All that is looked for below 1 MiB, one behind the other, each at a multiple of 16.
static int put_tables(const struct pc *b, u8 *to, struct error *err)
{
    struct acpi_params acpi = pc_acpi_params(b);
    struct smbios_params smbios = pc_smbios_params(b);
    struct mptable_params mp = describe_wiring(b);
    long at, used = acpi_build(&acpi, to, TABLES_SIZE, TABLES_BASE);

    if (used < 0)
        return error_set(err, (int)used, "the ACPI tables do not fit; use fewer processors (-smp)");
    at = (used + 15) & ~15l;
    used = smbios_build(&smbios, to + at, TABLES_SIZE - (size_t)at, TABLES_BASE + (u64)at);
    if (used < 0)
        return error_set(err, (int)used, "the SMBIOS structures do not fit; give less memory (-m)");
    if (!cpu_model_has(b->m.vcpu[0]->model, ISA_FEAT_APIC))
        return 0;
    at += (used + 15) & ~15l;
    used = mptable_build(&mp, to + at, TABLES_SIZE - (size_t)at, TABLES_BASE + (u64)at);
    if (used < 0)
        return error_set(err, (int)used, "the table of processors does not fit; use fewer (-smp)");
    return 0;
}

int pc_install_tables(struct pc *b, gpa *rsdp, struct error *err)
{
    u8 *to = mem_write_ptr(&b->m.mem, TABLES_BASE, TABLES_SIZE);
    int ret;

    *rsdp = 0;
    if (b->rom_size || !to)
        return 0;
    lock_take(&b->m.dev_lock);
    set_up_pci(b);
    lock_drop(&b->m.dev_lock);
    for (unsigned i = 0; i < b->m.vcpu_count; i++)
        set_up_mtrrs(b, b->m.vcpu[i]);
    put_reset_vector(b);
    memset(to, 0, TABLES_SIZE);
    ret = put_tables(b, to, err);
    if (!ret)
        *rsdp = TABLES_BASE;
    return ret;
}
