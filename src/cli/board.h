// From the command line to the board's options, as far as both `pogo run` and `pogo lockstep` need them.
#ifndef POGO_CLI_BOARD_H
#define POGO_CLI_BOARD_H

#include "board/pc.h"
#include "cli/images.h"
#include "cli/options.h"
#include "core/cpuid.h"

// Everything but the engine with its tuning, and the consoles. `model` and the firmware in `im` stay the caller's.
void board_options(const struct run_options *o, const struct images *im, const struct cpu_model *model,
                   struct pc_options *pc);
// The processor model that -cpu names, on this host. `host_tsc_hz`: the frequency of the host's TSC, for a model without one of its own.
// Returns 0 or a negative errno with *err set.
int board_model(const struct run_options *o, u64 host_tsc_hz, struct cpu_model *model, struct error *err);

#endif
