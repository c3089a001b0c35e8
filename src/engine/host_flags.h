// What the host leaves in the status flags that the manuals do not define, found out by trying; and which flags an instruction is certain
// to overwrite, which depends on that.
#ifndef POGO_ENGINE_HOST_FLAGS_H
#define POGO_ENGINE_HOST_FLAGS_H

#include "isa/insn.h"

struct host_flags {
    bool shifts_clean; // after shifts none depends on what it was before
    bool imul_clean;   // the same for IMUL with two or three operands
    bool imul_partial; // or it changes CF and OF only
    bool logic_same;   // AND, OR and XOR leave the same flags as TEST of their result
};

struct host_flags host_flags_study(void);
// Status flags (X86_FL_*) that are certain to be overwritten, whatever they were, with something that does not depend on them.
u32 host_flags_killed(const struct host_flags *h, const struct insn *in);

#endif
