// Logging of executed instructions and delivered events (-d in_asm, cpu, int).
#ifndef POGO_ENGINE_INTERP_TRACE_H
#define POGO_ENGINE_INTERP_TRACE_H

#include "engine/interp/interp.h"

void interp_trace_insn(struct interp *x, const struct insn *in);
void interp_trace_event(struct interp *x, const struct cpu_event *ev);

#endif
