// From options to character devices, and who is attached to which.
#ifndef POGO_CLI_CONSOLES_H
#define POGO_CLI_CONSOLES_H

#include "cli/options.h"
#include "cli/vm.h"

// Open what -chardev, -serial, -debugcon and the like name, and what they default to; attach the serial ports and the debug
// console of `vm`, and tell the board about them. Returns 0 or a negative errno with *err set.
int consoles_open(struct vm *vm, const struct run_options *o, struct pc_options *pc, struct error *err);
// With everything open: does it suit -daemonize?
int consoles_check(const struct vm *vm, const struct run_options *o, struct error *err);

#endif
