// The board: a PC of the i440FX kind. Builds a struct machine with everything on it from a few options.
//
// Guest-physical memory:
//   0          .. 9ffff       RAM
//   a0000      .. bffff       hole (VGA)
//   c0000      .. fffff       RAM or ROM as the host bridge's PAM registers say. ROM: in the last 128 KiB the end of the firmware, else
//                             ones. Without firmware it is all RAM
//   100000     .. bfffffff    RAM
//   c0000000   .. ffffffff    hole (PCI); firmware ROM at its end
//   100000000  ..             RAM that the hole displaced
#ifndef POGO_BOARD_PC_H
#define POGO_BOARD_PC_H

#include "board/acpi.h"
#include "board/smbios.h"
#include "boot/boot.h"
#include "boot/linux_fw.h"
#include "core/cpuid.h"
#include "core/machine.h"
#include "dev/fw_cfg.h"
#include "dev/hpet.h"
#include "dev/i440fx.h"
#include "dev/i8042.h"
#include "dev/i8254.h"
#include "dev/i8259.h"
#include "dev/ioapic.h"
#include "dev/lapic.h"
#include "dev/mc146818.h"
#include "dev/misc.h"
#include "dev/pci.h"
#include "dev/piix.h"
#include "dev/uart16550.h"
#include "pogo/error.h"

#define PC_MIN_RAM (1ull << 20)
#define PC_MAX_RAM (1ull << 40)
#define PC_MIN_BIOS (64ull << 10)
#define PC_MAX_BIOS (16ull << 20)

#define PC_HIGH_RAM (4ull << 30) // where RAM goes on that has no room below the PCI hole

#define PC_SERIALS 4 // COM1 to COM4

// The far end of a serial line or a debug console. `rx` gives the next character or -1; `room` tells whether `tx` should get more
// now (NULL: always).
struct pc_peer {
    void (*tx)(void *out, u8 byte);
    int (*rx)(void *in);
    void *out, *in;
    bool (*room)(void *out);
};

struct pc_options {
    u64 ram;       // bytes, a multiple of 4 KiB between PC_MIN_RAM and PC_MAX_RAM
    unsigned cpus; // 0 means 1
    const struct engine_ops *engine;
    struct engine_tuning tuning;
    const struct cpu_model *model; // stays the caller's, and must outlive the board
    const u8 *bios;                // copied; NULL: none
    u64 bios_size;
    bool serial[PC_SERIALS], debugcon, debug_exit, testdev, pvpanic;
    struct pc_peer serial_peer[PC_SERIALS], debugcon_peer;
    // Virtual time from instructions: `num` / `den` ns each, for one processor; num 0: from the host's clock. It begins at `utc_ns`.
    struct {
        u32 num, den;
        i64 utc_ns;
    } icount;
    i64 rtc_shift_s;   // what the guest's wall clock shows at the start, less UTC
    bool rtc_slew;     // make up for its periodic interrupts that came too late
    u16 debugcon_base; // 0xe9 usually
    u16 debug_exit_base, debug_exit_size;
    u16 pvpanic_port;
    bool nographic;   // firmware may use the first serial line as its console
    const char *boot; // order of drives for firmware, letters as in -boot; NULL: its own
    bool boot_menu;   // firmware is to offer a choice
};

struct pc {
    struct machine m;      // first
    u8 *ram, *rom, *blank; // blank: ones, where there is no ROM
    _Atomic u8 *ram_flags, *rom_flags, *blank_flags;
    u64 ram_size, rom_size;
    struct i8259 pic;
    struct ioapic ioapic;
    struct lapic lapic[MACHINE_MAX_VCPUS]; // one for each vCPU
    unsigned lowest_next;                  // who takes the next lowest-priority interrupt, if addressed
    struct i8254 pit;
    struct hpet hpet;
    struct mc146818 rtc;
    u16 timer_irq; // levels that the 8254 and the RTC give their ISA interrupts
    struct i8042 i8042;
    bool a20_fast, a20_keyboard; // the two gates of the A20 line
    struct fw_cfg fw_cfg;
    u8 fw_e820[2 * 20], fw_uuid[16];
    struct pc_tables *fw_tables;
    struct uart uart[PC_SERIALS];
    u8 uart_irq; // levels of their interrupt outputs
    struct debug_exit debug_exit;
    struct pvpanic pvpanic;
    u16 pvpanic_port; // 0: not there
    struct debug_console debugcon;
    struct post_port post;
    struct port92 port92;
    struct fpu_error fpu_error;
    struct testdev testdev;
    struct pci_bus pci;
    struct pci_window pci_window[2]; // below and above 4 GiB; the latter without a bus: there is none
    struct i440fx host_bridge;
    struct piix3 piix3;
    struct piix4_pm pm;
    struct pc_virtio *virtio;       // see board/pc_virtio.h
    struct virtio_balloon *balloon; // NULL: none
    u16 isa_irq[2];                 // levels that devices of the board and PCI functions give the ISA interrupts
};

// Build a board. Returns 0 and *out, or a negative errno with *err set; then nothing stays allocated.
int pc_create(struct host *host, const struct pc_options *o, struct pc **out, struct error *err);
void pc_destroy(struct pc *b);
// Everything to the state after power-on, but for RAM, which keeps its contents. No vCPU may be running, and the device lock is free.
void pc_reset(struct pc *b);
// Memory as firmware would report it. Returns the number of ranges written, at most BOOT_MAX_RANGES.
unsigned pc_memory_map(const struct pc *b, struct boot_range *out);
// In place of firmware, before an operating system is started, and again after a reset: set up the PCI bus, and put ACPI tables,
// SMBIOS structures and the MP table into memory. *rsdp is the root pointer's address, or 0 when there is a ROM, whose business all this
// is. Returns 0 or a negative errno with *err set.
int pc_install_tables(struct pc *b, gpa *rsdp, struct error *err);
// Have firmware start a kernel, in preference to any disk: tell it by fw_cfg. What *o points to stays the caller's and must outlive the
// board, as must the command line. Once. Returns 0 or a negative errno.
int pc_offer_linux(struct pc *b, const struct linux_offer *o, const char *cmdline);
// Where a device's ISA interrupt goes.
struct irq_line pc_isa_irq(struct pc *b, unsigned n);
// A message-signalled interrupt: what a write of `data` to `addr` does. For PCI devices.
void pc_msi(void *board, u64 addr, u32 data);
// The far end of serial line n has received something, has room again, or sends a break. With the device lock held.
void pc_serial_input(struct pc *b, unsigned n);
void pc_serial_room(struct pc *b, unsigned n);
void pc_serial_break(struct pc *b, unsigned n);

// --- between the files of the board -----------------------------------------------------------------------------------------

#define PC_GSI_PIRQA 16 // input of the I/O APIC

// Free the memory of virtio devices.
void pc_free_virtio(struct pc *b);
// Bytes of RAM below the PCI hole.
u64 pc_low_ram(const struct pc *b);
// The board as its tables describe it.
struct acpi_params pc_acpi_params(const struct pc *b);
struct smbios_params pc_smbios_params(const struct pc *b);
// Fill fw_cfg, when everything of `o` is there. Returns 0 or a negative errno. And free what it took.
int pc_fill_fw_cfg(struct pc *b, const struct pc_options *o);
void pc_free_fw_cfg(struct pc *b);
// What the host bridge says of the memory from 0xc0000 to 0xfffff.
void pc_map_areas(void *board, u32 reads, u32 writes);
// Build the PCI side; the I/O APIC is there. Returns 0 or a negative errno.
int pc_wire_pci(struct pc *b);
// Where PCI's share of an ISA interrupt goes: it is up while either the device's or this one is.
struct irq_line pc_pci_irq(struct pc *b, unsigned n);

#endif
