// What the board is made of, from the command line.
#include "cli/board.h"

#include <errno.h>

#include "host/features.h"

#define ICOUNT_TSC_HZ 1000000000 // the host's is measured, and not the same each time

// Devices of -device that belong to the board itself.
static void add_devices(const struct run_options *o, struct pc_options *pc)
{
    for (unsigned i = 0; i < o->device_count; i++) {
        const struct device_option *d = &o->device[i];

        if (d->kind == DEVICE_TESTDEV)
            pc->testdev = true;
        if (d->kind == DEVICE_PVPANIC) {
            pc->pvpanic = true;
            pc->pvpanic_port = (u16)device_number(d, "ioport");
        }
        if (d->kind != DEVICE_DEBUG_EXIT)
            continue;
        pc->debug_exit = true;
        pc->debug_exit_base = (u16)device_number(d, "iobase");
        pc->debug_exit_size = (u16)device_number(d, "iosize");
    }
}

void board_options(const struct run_options *o, const struct images *im, const struct cpu_model *model,
                   struct pc_options *pc)
{
    *pc = (struct pc_options){
        .ram = o->ram,
        .cpus = o->cpus,
        .model = model,
        .bios = im->bios.bytes,
        .bios_size = im->bios.size,
        .rtc_shift_s = o->rtc_shift_s,
        .rtc_slew = o->rtc_slew,
        .nographic = o->nographic,
        .boot = o->boot,
        .boot_menu = o->boot_menu,
    };
    if (o->icount) { // what would otherwise come from the host's clocks
        pc->icount.num = 1u << o->icount_shift;
        pc->icount.den = 1;
        pc->icount.utc_ns = o->utc_s * 1000000000;
        pc->rtc_shift_s = o->rtc_date ? 0 : o->rtc_shift_s;
    }
    add_devices(o, pc);
}

int board_model(const struct run_options *o, u64 host_tsc_hz, struct cpu_model *model, struct error *err)
{
    u64 features[HOST_FEATURE_WORDS];
    char text[512];

    host_features(features);
    const char *bad = cpu_model_parse(o->cpu, features, model, text, sizeof(text));
    if (bad)
        return error_set(err, -EINVAL, "%s", bad);
    if (!model->tsc_hz)
        model->tsc_hz = o->icount ? ICOUNT_TSC_HZ : host_tsc_hz;
    return 0;
}
