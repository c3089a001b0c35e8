# pogo: build, test, run. `make help` lists the targets.
#
# Everything is built into build/ (MODE=rel) or build-MODE/. Object lists are explicit: a file that is not named here is
# not part of the program.

MODE ?= rel
CC ?= gcc
HOSTCC ?= $(CC)
PREFIX ?= /usr/local

ifeq ($(filter $(MODE),rel dbg asan ubsan),)
$(error MODE=$(MODE): must be one of rel dbg asan ubsan)
endif

B := $(if $(filter rel,$(MODE)),build,build-$(MODE))

WARN := -Wall -Wextra -Werror -Wmissing-prototypes -Wstrict-prototypes -Wvla
CFLAGS_rel := -O2 -g -DNDEBUG
CFLAGS_dbg := -Og -g3
CFLAGS_asan := -O1 -g -fsanitize=address -fno-omit-frame-pointer
CFLAGS_ubsan := -O1 -g -fsanitize=undefined -fno-sanitize-recover=all
LDFLAGS_asan := -fsanitize=address
LDFLAGS_ubsan := -fsanitize=undefined
CPPFLAGS := -Iinclude -Isrc -I$(B)/gen -D_GNU_SOURCE
ALL_CFLAGS := -std=gnu11 $(WARN) $(CFLAGS_$(MODE)) -fno-strict-aliasing -pthread $(CFLAGS)
ALL_LDFLAGS := $(LDFLAGS_$(MODE)) -pthread $(LDFLAGS)

# --- object lists ------------------------------------------------------------------------------------------------------

ISA_OBJS :=
CORE_OBJS :=
INTERP_OBJS :=
DEV_OBJS :=
BOARD_OBJS :=
BOOT_OBJS :=
HOST_OBJS :=
CLI_OBJS :=

LIB_OBJS := $(addprefix $(B)/src/,$(ISA_OBJS) $(CORE_OBJS) $(INTERP_OBJS) $(DEV_OBJS) $(BOARD_OBJS) $(BOOT_OBJS) $(HOST_OBJS))
POGO_OBJS := $(addprefix $(B)/src/,$(CLI_OBJS))

# Test programs: tests/NAME.c (one file each), linked with the library objects and cmocka.
UNIT_TESTS :=

GEN := $(B)/gen/isa_gen.h

# --- rules -------------------------------------------------------------------------------------------------------------

.PHONY: all
all: $(B)/pogo

$(B)/pogo: $(POGO_OBJS) $(B)/libpogo.a
	$(CC) $(ALL_LDFLAGS) -o $@ $^ -lZydis

$(B)/libpogo.a: $(LIB_OBJS)
	rm -f $@ && $(AR) rcs $@ $^

$(B)/src/%.o: src/%.c | $(GEN)
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

$(B)/src/%.o: src/%.S | $(GEN)
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

$(B)/tests/%.o: tests/%.c | $(GEN)
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) -Itests $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

$(addprefix $(B)/tests/,$(UNIT_TESTS)): $(B)/tests/%: $(B)/tests/%.o $(B)/libpogo.a
	$(CC) $(ALL_LDFLAGS) -o $@ $^ -lcmocka -lZydis

.PHONY: clean
clean:
	rm -rf build build-dbg build-asan build-ubsan

-include $(shell find $(B) -name '*.d' 2>/dev/null)
