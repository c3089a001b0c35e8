# pogo: build, test, run. `make help` lists the targets.
#
# Everything is built into build/ (MODE=rel) or build-MODE/. Object lists are explicit: a file that is not named here is
# not part of the program.

# No built-in rules: what has no rule here is a mistake.
MAKEFLAGS += -r

MODE ?= rel
CC ?= gcc
HOSTCC ?= $(CC)
PREFIX ?= /usr/local

ifeq ($(filter $(MODE),rel dbg asan ubsan tsan fuzz),)
$(error MODE=$(MODE): must be one of rel dbg asan ubsan tsan fuzz)
endif
ifeq ($(MODE),fuzz)
CC := clang
HOSTCC := gcc
endif

B := $(if $(filter rel,$(MODE)),build,build-$(MODE))

WARN := -Wall -Wextra -Werror -Wmissing-prototypes -Wstrict-prototypes -Wvla
CFLAGS_rel := -O2 -g -DNDEBUG
CFLAGS_dbg := -Og -g3
# gcc's sanitizer instrumentation confuses its own -Wmaybe-uninitialized (gcc manual, -fsanitize).
SAN_WARN := $(if $(findstring clang,$(CC)),,-Wno-maybe-uninitialized)
CFLAGS_asan := -O1 -g -fsanitize=address -fno-omit-frame-pointer $(SAN_WARN)
CFLAGS_ubsan := -O1 -g -fsanitize=undefined -fno-sanitize-recover=all $(SAN_WARN)
# A fence alone tells the sanitizer nothing; what it orders is atomic as well.
CFLAGS_tsan := -O1 -g -fsanitize=thread $(SAN_WARN) $(if $(findstring clang,$(CC)),,-Wno-tsan)
CFLAGS_fuzz := -O1 -g -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined
LDFLAGS_fuzz := -fsanitize=address,undefined
LDFLAGS_asan := -fsanitize=address
LDFLAGS_tsan := -fsanitize=thread
LDFLAGS_ubsan := -fsanitize=undefined
# Handlers of the cache engine jump to each other only where the compiler makes tail calls.
TRAMPOLINE := $(if $(filter rel,$(MODE)),,-DCACHE_TRAMPOLINE)
# What a sanitizer instruments may use vector registers anywhere.
SANITIZED := $(if $(filter asan ubsan tsan fuzz,$(MODE)),-DBT_VEC_EAGER=1)
CPPFLAGS := $(TRAMPOLINE) $(SANITIZED) -Iinclude -Isrc -I$(B)/gen -D_GNU_SOURCE
ALL_CFLAGS := -std=gnu11 $(WARN) $(CFLAGS_$(MODE)) -fno-strict-aliasing -pthread $(CFLAGS)
ALL_LDFLAGS := $(LDFLAGS_$(MODE)) -pthread $(LDFLAGS)

# --- object lists ------------------------------------------------------------------------------------------------------

ISA_OBJS := isa/decode.o isa/native.o isa/native_entry.o
# Disassembly needs Zydis and libc: not part of the freestanding set.
ISA_DISASM_OBJS := isa/disasm.o
CORE_OBJS := core/bus.o core/clock.o core/lock.o core/cpu.o core/log.o core/machine.o core/mem.o core/mmu.o core/tlb.o core/vcpu.o
CORE_OBJS += core/cpu_fields.o core/debug.o core/cpuid.o core/model.o core/msr.o core/mtrr.o core/pvclock.o
ENGINE_OBJS := engine/engines.o engine/keeper.o engine/host_flags.o
INTERP_OBJS := engine/interp/access.o engine/interp/loop.o engine/interp/trace.o
INTERP_OBJS += engine/interp/simd.o engine/interp/xsave.o engine/interp/x87env.o engine/interp/gather.o
INTERP_OBJS += $(addprefix engine/interp/,alu.o bits.o branch.o data.o io.o stack.o string.o)
INTERP_OBJS += engine/interp/seg.o engine/interp/segops.o engine/interp/frame.o engine/interp/far.o engine/interp/gate.o
INTERP_OBJS += engine/interp/iret.o engine/interp/event.o engine/interp/task.o
INTERP_OBJS += engine/interp/ctl.o engine/interp/sys.o engine/interp/syscall.o
CACHE_OBJS := $(addprefix engine/cache/,cache.o store.o build.o slow.o alu.o data.o branch.o vector.o pairs.o)
BT_OBJS := $(addprefix engine/bt/,bt.o service.o adapt.o event.o glue.o codecache.o link.o analyse.o forms.o translate.o share.o flags.o recipe.o mem.o ident.o vector.o x87.o vecstate.o)
BT_OBJS += $(addprefix engine/bt/,stack.o string.o bits.o sys.o light.o event32.o flow.o dump.o stats.o)
DEV_OBJS := dev/uart16550.o dev/i8259.o dev/ioapic.o dev/hpet.o dev/misc.o dev/lapic.o dev/fw_cfg.o dev/i8254.o dev/mc146818.o
DEV_OBJS += dev/pci.o dev/i440fx.o dev/piix.o
DEV_OBJS += dev/blk_timed.o dev/virtio.o dev/virtio_pci.o dev/virtio_blk.o dev/virtio_rng.o dev/virtio_balloon.o dev/virtio_console.o
DEV_OBJS += dev/i8042.o dev/ps2.o
BOARD_OBJS := board/pc.o
BOARD_OBJS += board/mptable.o board/pc_fw_cfg.o board/acpi_loader.o board/acpi.o board/acpi_dsdt.o board/aml.o board/smbios.o board/pc_pci.o board/pc_virtio.o
BOOT_OBJS := boot/boot.o boot/elf.o boot/linux.o boot/linux_fw.o boot/linux_rom.o boot/multiboot.o boot/pvh.o
HOST_OBJS := host/linux.o host/term.o host/file.o host/features.o
HOST_OBJS += host/facts.o host/loop.o host/chardev.o host/chardev_open.o host/chardev_socket.o
HOST_OBJS += host/native_arena.o host/native_signal.o
HOST_OBJS += host/blockio.o host/random.o host/discard.o
CLI_OBJS := cli/main.o cli/cmd_run.o cli/cmd_lockstep.o cli/cmd_disasm.o cli/ports.o cli/daemon.o
CLI_OBJS += cli/manual.o cli/cmd_doctor.o
# Parts of the command line that unit tests need too.
VM_OBJS := cli/vm.o cli/report.o cli/options.o cli/accel.o cli/keyval.o cli/chars.o cli/consoles.o cli/devices.o cli/drives.o
VM_OBJS += cli/monitor.o cli/monitor_info.o cli/monitor_dump.o cli/pagewalk.o
VM_OBJS += cli/images.o cli/disks.o cli/board.o cli/script.o cli/side.o cli/lockstep.o cli/lockstep_compare.o
VM_OBJS += cli/gdb_packet.o cli/gdb_regs.o cli/gdb_session.o cli/gdbstub.o

LIB_OBJS := $(addprefix $(B)/src/,$(ISA_OBJS) $(ISA_DISASM_OBJS) $(CORE_OBJS) $(ENGINE_OBJS) $(INTERP_OBJS) $(CACHE_OBJS) $(BT_OBJS) $(DEV_OBJS) $(BOARD_OBJS) $(BOOT_OBJS) $(HOST_OBJS) $(VM_OBJS))
POGO_OBJS := $(addprefix $(B)/src/,$(CLI_OBJS))

# Test programs: tests/NAME.c (one file each), linked with the library objects and cmocka.
UNIT_TESTS := board/test_smp dev/test_i8042 dev/test_i8254 dev/test_mc146818 dev/test_lapic dev/test_hpet dev/test_ioapic dev/test_uart dev/test_i8259 real/cpu286
UNIT_TESTS += isa/test_alu isa/test_decode isa/zydis_diff isa/processor
UNIT_TESTS += core/test_mem core/test_tlb core/test_mmu core/test_mmu_random core/test_bus core/test_clock core/test_cpu
UNIT_TESTS += core/test_icount isa/test_native interp/test_simd
UNIT_TESTS += boot/test_boot boot/test_linux board/test_pc
UNIT_TESTS += interp/test_xfer interp/test_event interp/test_task
UNIT_TESTS += core/test_cpuid core/test_msr interp/test_sys
UNIT_TESTS += interp/test_int
UNIT_TESTS += dev/test_fw_cfg board/test_pc_fw_cfg board/test_shadow board/test_acpi dev/test_pci dev/test_piix board/test_pc_pci
UNIT_TESTS += dev/test_virtio dev/test_virtio_blk dev/test_virtio_balloon dev/test_virtio_console host/test_blockio host/test_blockio_faults
UNIT_TESTS += interp/test_debug gdb/test_gdb
UNIT_TESTS += bt/golden bt/test_emit bt/test_codecache bt/test_event bt/test_adapt
UNIT_TESTS += host/test_chardev host/test_memory cli/test_options cli/test_lockstep
# Every other program or image that tests/suite refers to: built before `make check` runs it.
CHECK_BUILDS = $(GUEST_IMAGES) $(G)/stress $(G)/trial64 $(G)/trial32
# The processor oracle.
ORACLE_OBJS := $(addprefix $(B)/tests/oracle/,arena.o compare.o encode.o gen.o guest.o main.o minimise.o mutant.o native.o sequence.o sequences.o steer.o tramp.o values.o)
CHECK_BUILDS += $(B)/tests/oracle/oracle
# libFuzzer targets: tests/fuzz/NAME.c.
FUZZ_TESTS := fuzz_bzimage fuzz_multiboot fuzz_pvh fuzz_decode fuzz_devices fuzz_interp fuzz_pci fuzz_gdb
FUZZ_TESTS += fuzz_virtio fuzz_fw_cfg fuzz_memory
FUZZ_TESTS += fuzz_options

# Bare-metal test guests: guests/NAME.c with guests/lib, one image each. The same images serve every MODE.
GUESTS64 := smp64 timers64 bench64 smoke64 paging64 debug64 intr64 sys64 sens64
GUESTS32 := smoke32 seg32 task32 v86
GUESTS64 += gates64 fault64 triple64 iret64 atomics lock64 smc xstate fpu64 compat64
GUESTS32 += paging32 gates32 iret32 desc32 long32 real16
# The demonstration of `make run-hello`.
GUESTS64 += smcstore64
GUESTS64 += smcpage64
GUESTS64 += smcstate64
GUESTS64 += smcdebug64
GUESTS64 += smcmp64
GUESTS64 += escintr64 escflags64 esckey64 escret64 escpage64 escsmc64 escflood64 escvec64 escaddr64
GUESTS32 += smcreal16
GUESTS32 += smcseg32
GUESTS64 += smcdma64 smcrom64
GUESTS64 += smcjit64 string64 share64 adapt64
GUESTS64 += nano64
GUESTS64 += hello

comma := ,
GEN := $(B)/gen/isa_gen.h $(B)/gen/isa_tables.inc

# --- rules -------------------------------------------------------------------------------------------------------------

.PHONY: all
all: $(B)/pogo $(B)/pogo.1 $(B)/pogo.bash ## build the program (the default)

$(B)/pogo: $(POGO_OBJS) $(B)/libpogo.a
	$(CC) $(ALL_LDFLAGS) -o $@ $^ -lZydis

# The manual page and bash completion come from the program's own tables.
$(B)/pogo.1: $(B)/pogo
	$< help --man > $@.tmp && mv $@.tmp $@

$(B)/pogo.bash: $(B)/pogo
	$< help --completion > $@.tmp && mv $@.tmp $@

$(B)/libpogo.a: $(LIB_OBJS)
	rm -f $@ && $(AR) rcs $@ $^

# Each handler of the cache engine ends in a jump of its own, which the processor predicts by itself.
$(B)/src/engine/cache/%.o: ALL_CFLAGS += -foptimize-sibling-calls $(if $(findstring clang,$(CC)),,-fno-crossjumping)

# Translated code calls these while the guest's vector state is in the registers (src/engine/bt/vecstate.c).
VECTOR_FREE := $(addprefix $(B)/src/,$(BT_OBJS) engine/keeper.o core/mmu.o core/tlb.o core/mem.o)
$(VECTOR_FREE): ALL_CFLAGS += $(if $(SANITIZED),,-mgeneral-regs-only)
$(VECTOR_FREE): Makefile # objects compiled otherwise, before, corrupt guests

$(B)/src/%.o: src/%.c | $(GEN)
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

$(B)/src/%.o: src/%.S | $(GEN)
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

$(B)/tests/%.o: tests/%.c | $(GEN)
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) -Itests $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

$(B)/tests/%.o: tests/%.S
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) -Itests $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

# What a test program needs beside its own file.
$(B)/tests/isa/test_native $(B)/tests/interp/test_simd: $(B)/tests/isa/raw_run.o
$(B)/tests/host/test_blockio_faults: ALL_LDFLAGS += $(addprefix -Wl$(comma)--wrap=,preadv pwritev pwrite fdatasync fallocate)
$(B)/tests/bt/golden: $(B)/tests/bt/snippets.o
$(B)/tests/board/test_shadow: $(B)/tests/board/shadow_rom.o
$(B)/tests/oracle/oracle: $(ORACLE_OBJS) $(B)/libpogo.a
	$(CC) $(ALL_LDFLAGS) -o $@ $^ -lZydis

# The instructions that the harness itself uses, and no stack protector: FS is the test's when a signal arrives.
$(B)/tests/oracle/native.o: ALL_CFLAGS += -mfsgsbase -fno-stack-protector

$(B)/tests/real/cpu286: TEST_LIBS := -ljansson
$(addprefix $(B)/tests/,$(UNIT_TESTS)): $(B)/tests/%: $(B)/tests/%.o $(B)/libpogo.a
	$(CC) $(ALL_LDFLAGS) -o $@ $^ -lcmocka -lZydis $(TEST_LIBS)

$(addprefix $(B)/tests/fuzz/,$(FUZZ_TESTS)): $(B)/tests/fuzz/%: $(B)/tests/fuzz/%.o $(B)/libpogo.a
	$(CC) $(ALL_LDFLAGS) -fsanitize=fuzzer -o $@ $^ -lZydis

# --- guests --------------------------------------------------------------------------------------------------------------

G := build/guests
GUEST_IMAGES := $(patsubst %,$(G)/%.elf,$(GUESTS64) $(GUESTS32))
GUEST_CFLAGS := -std=gnu11 $(filter-out -Wmissing-prototypes,$(WARN)) -O1 -g -ffreestanding -fno-pic -fno-pie -fno-stack-protector \
	-fno-asynchronous-unwind-tables -fcf-protection=none -mgeneral-regs-only -fno-strict-aliasing -fno-omit-frame-pointer \
	-fno-tree-loop-distribute-patterns -Iguests/lib
GUEST_LIB := print trap init
GUEST_LD := -nostdlib -static -no-pie -Wl,-T,guests/lib/guest.ld -Wl,--build-id=none -Wl,-z,noexecstack -Wl,--no-warn-rwx-segments

$(G)/%.64.o: guests/%.c
	@mkdir -p $(@D)
	gcc -m64 -mno-red-zone -mcmodel=small $(GUEST_CFLAGS) -MMD -MP -c -o $@ $<
$(G)/%.64.o: guests/%.S
	@mkdir -p $(@D)
	gcc -m64 -MMD -MP -c -o $@ $<
$(G)/%.32.o: guests/%.c
	@mkdir -p $(@D)
	gcc -m32 -march=i686 $(GUEST_CFLAGS) -MMD -MP -c -o $@ $<
$(G)/%.32.o: guests/%.S
	@mkdir -p $(@D)
	gcc -m32 -MMD -MP -c -o $@ $<

# Multiboot loaders want ELF32, also around 64-bit code. Some guests are their own disk or ROM: whole sectors, whole pages.
$(patsubst %,$(G)/%.elf,$(GUESTS64)): $(G)/%.elf: $(G)/lib/start64.64.o $(G)/%.64.o $(GUEST_LIB:%=$(G)/lib/%.64.o) guests/lib/guest.ld
	gcc -m64 $(GUEST_LD) -o $@.64 $(filter %.o,$^)
	objcopy -g -O elf32-i386 $@.64 $@
	truncate -s %65536 $@
$(G)/nano64.elf: $(G)/nano_user.64.o $(G)/nano_sys.64.o
$(patsubst %,$(G)/%.elf,$(GUESTS32)): $(G)/%.elf: $(G)/lib/start32.32.o $(G)/%.32.o $(GUEST_LIB:%=$(G)/lib/%.32.o) guests/lib/guest.ld
	gcc -m32 $(GUEST_LD) -o $@ $(filter %.o,$^)

# A program for Linux guests: whole, because they have no libraries.
$(G)/stress: tests/linux/stress.c
	@mkdir -p $(@D)
	gcc -std=gnu11 $(WARN) -D_GNU_SOURCE -O2 -static -pthread -o $@ $<

# Another, of both widths: addresses of its code fit in 32 bits, and nothing lies below the stack pointer.
$(G)/trial64 $(G)/trial32: $(G)/trial%: $(wildcard tests/linux/trial/*.[ch])
	@mkdir -p $(@D)
	gcc -m$* -std=gnu11 $(WARN) -D_GNU_SOURCE -O2 -msse2 -mno-red-zone -fno-stack-protector -fcf-protection=none -fno-pie -no-pie -static \
		-pthread -o $@ $(filter %.c,$^)

# And one for the whole-program benchmark, which runs natively, too.
LOAD_SOURCES := $(addprefix bench/loads/,compute.c main.c system.c)
$(G)/loads: $(LOAD_SOURCES) bench/loads/loads.h
	@mkdir -p $(@D)
	gcc -std=gnu11 $(WARN) -D_GNU_SOURCE -O2 -ffp-contract=off -static -o $@ $(LOAD_SOURCES) -lm

.PHONY: guests
guests: $(GUEST_IMAGES) ## build the bare-metal test guests

$(B)/bench/%.o: bench/%.c | $(GEN)
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) -Itests -Iguests $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

$(B)/bench/nano: $(G)/nano_user.64.o
$(B)/bench/mips: ALL_LDFLAGS += -Wl,--wrap=malloc,--wrap=calloc,--wrap=mmap
$(B)/bench/%: $(B)/bench/%.o $(B)/libpogo.a
	$(CC) $(ALL_LDFLAGS) -o $@ $^ -lZydis

# isa and core must stand alone: compiled without a hosted libc and linked together, they may ask for nothing but the four
# functions that the compiler itself emits calls to.
FREE_OBJS := $(addprefix $(B)/free/,$(ISA_OBJS) $(CORE_OBJS))
$(B)/free/%.o: src/%.c | $(GEN)
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) -std=gnu11 $(WARN) $(CFLAGS_rel) -fno-strict-aliasing -ffreestanding -fno-stack-protector -MMD -MP -c -o $@ $<

$(B)/free/%.o: src/%.S | $(GEN)
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) -MMD -MP -c -o $@ $<

.PHONY: check-freestanding
check-freestanding: $(FREE_OBJS) ## check that src/isa and src/core need no libc
	@$(CC) -nostdlib -r -o $(B)/free/all.o $(FREE_OBJS)
	@missing=$$(nm -u $(B)/free/all.o | awk '{ print $$2 }' | grep -vx 'mem\(cpy\|move\|set\|cmp\)' | tr '\n' ' '); \
	if [ -n "$$missing" ]; then echo "src/isa, src/core: not freestanding, they use: $$missing"; exit 1; fi; \
	echo "src/isa, src/core: $(words $(FREE_OBJS)) objects stand alone"

# The instruction table's generator runs on the build host; make stops when a row is malformed or ambiguous.
$(B)/isagen: tools/isagen.c src/isa/x86.h $(wildcard src/isa/*.def)
	@mkdir -p $(@D)
	$(HOSTCC) -std=gnu11 $(WARN) -O1 -Iinclude -Isrc -o $@ $<

$(B)/gen/isa_gen.h: $(B)/isagen
	@mkdir -p $(@D)
	$< enums > $@.tmp && mv $@.tmp $@

$(B)/gen/isa_tables.inc: $(B)/isagen
	@mkdir -p $(@D)
	$< tables > $@.tmp && mv $@.tmp $@

# --- targets for people ------------------------------------------------------------------------------------------------
#
# A target that needs more than gcc and make calls tools/setup.sh first, and then make again: the packages must be there
# before anything is compiled, also under -j.

.PHONY: man run check check-long fuzz bench format format-check install uninstall clean help
.PHONY: run-hello run-installer run-built run-hello-built run-installer-built
.PHONY: check-built check-long-built fuzz-built bench-built

run: ## boot Debian's kernel to a shell (ARGS: more options for pogo run; KERNEL: another package)
	@tools/setup.sh run
	@$(MAKE) --no-print-directory run-built

run-built: $(B)/pogo
	@tools/guest/run.sh $(B)/pogo $(ARGS)

ARCH ?= amd64
run-installer: ## boot Debian's installer to its first screen (ARCH=amd64 or i386)
	@tools/setup.sh run
	@$(MAKE) --no-print-directory run-installer-built

run-installer-built: $(B)/pogo
	@tools/guest/installer.sh $(B)/pogo $(ARCH) $(ARGS)

run-hello: ## boot a small guest of our own
	@tools/setup.sh run
	@$(MAKE) --no-print-directory run-hello-built

# The guest says goodbye with status 33.
run-hello-built: $(B)/pogo $(G)/hello.elf
	$(B)/pogo run -kernel $(G)/hello.elf -nographic -device isa-debug-exit,iobase=0xf4,iosize=4 $(ARGS) || [ $$? -eq 33 ]

check: ## run the tests (T=NAME: only rows of tests/suite that start with NAME; ENGINE=NAME; MODE=asan, ubsan, tsan, dbg)
	@tools/setup.sh check
	@$(MAKE) --no-print-directory check-built

check-built: all $(addprefix $(B)/tests/,$(UNIT_TESTS)) $(CHECK_BUILDS)
	@tests/run.sh $(B) $(MODE) check $(T)

check-long: ## the long tests: whole decoder space, long oracle runs, large guests, guests under QEMU (T, ENGINE)
	@tools/setup.sh check-long
	@$(MAKE) --no-print-directory check-long-built

check-long-built: all $(addprefix $(B)/tests/,$(UNIT_TESTS)) $(CHECK_BUILDS)
	@tests/run.sh $(B) $(MODE) long $(T)

.PHONY: golden golden-built
golden: ## take what the translator makes of the golden tests' code for right: tests/bt/golden (look at the difference)
	@tools/setup.sh check
	@$(MAKE) --no-print-directory golden-built

golden-built: $(B)/tests/bt/golden
	@tests/bt/golden.sh $(B) rebase

FUZZ_SECONDS ?= 60
fuzz: ## run every fuzz target for FUZZ_SECONDS (60) seconds
	@tools/setup.sh fuzz
	@$(MAKE) --no-print-directory MODE=fuzz fuzz-built

# Guest images are seeds for the loaders.
fuzz-built: $(addprefix $(B)/tests/fuzz/,$(FUZZ_TESTS)) $(GUEST_IMAGES)
	@for t in $(FUZZ_TESTS); do tests/fuzz/run.sh $(B)/tests/fuzz/$$t $(FUZZ_SECONDS) $(GUEST_IMAGES) || exit 1; done

bench: bench-core bench-boot ## run the benchmarks
.PHONY: bench-core bench-boot bench-bt
bench-core:
	@tools/setup.sh run
	@$(MAKE) --no-print-directory bench-built

BENCH_PROGRAMS := $(B)/bench/decode $(B)/bench/tlb $(B)/bench/mips $(B)/bench/native
bench-built: all $(BENCH_PROGRAMS) $(G)/bench64.elf
	@bench/core.sh $(B)

bench-boot: ## seconds to the first line of init, beside QEMU; pogo's own start and memory (KERNEL, ROUNDS, ENGINES)
	@tools/setup.sh bench
	@$(MAKE) --no-print-directory all
	@bench/boot.sh $(B)

bench-bt: ## programs and single operations natively, in QEMU and in pogo, with ratios (ENGINES, LOADS, ROUNDS, PARTS; see bench/bt.sh)
	@tools/setup.sh bench
	@$(MAKE) --no-print-directory all $(B)/bench/nano $(G)/nano64.elf $(G)/loads
	@bench/bt.sh $(B)

# Hand-made tables (*.def) keep the layout they have.
FORMAT_FILES = $(shell find include src tests guests bench tools -name '*.[ch]' 2>/dev/null)
format: ## lay out the C sources with clang-format
	@tools/setup.sh format
	clang-format -i $(FORMAT_FILES)

format-check: ## fail when `make format` would change something
	@tools/setup.sh format
	@clang-format --dry-run --Werror $(FORMAT_FILES) && echo "format-check: $(words $(FORMAT_FILES)) files are laid out"

install: all ## copy program, manual page and bash completion below PREFIX (/usr/local; DESTDIR is honoured)
	install -D -m 755 $(B)/pogo $(DESTDIR)$(PREFIX)/bin/pogo
	install -D -m 644 $(B)/pogo.1 $(DESTDIR)$(PREFIX)/share/man/man1/pogo.1
	install -D -m 644 $(B)/pogo.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/pogo

uninstall: ## remove what install has copied
	rm -f $(DESTDIR)$(PREFIX)/bin/pogo $(DESTDIR)$(PREFIX)/share/man/man1/pogo.1
	rm -f $(DESTDIR)$(PREFIX)/share/bash-completion/completions/pogo

man: $(B)/pogo.1 ## write the manual page

clean: ## remove everything that was built
	rm -rf build build-dbg build-asan build-ubsan build-tsan build-fuzz build-clang

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' Makefile | awk -F'|' '{ printf "%-15s %s\n", $$1, $$2 }'
	@echo "  MODE=rel|dbg|asan|ubsan|tsan selects the build (build/, build-MODE/); -j2 builds in parallel"

-include $(shell find $(B) $(G) -name '*.d' -type f -not -path '*/debian/*' 2>/dev/null)
