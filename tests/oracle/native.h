// What native.c and tramp.S share.
#ifndef POGO_ORACLE_NATIVE_H
#define POGO_ORACLE_NATIVE_H

struct orc_state;

// Load the state and run from ctx.target. 0: came out through an exit; 1: an exception ended it.
int orc_native_enter(const struct orc_state *in, int way);
void orc_native_exit0(void);
void orc_native_exit1(void);
void orc_native_signal(void);
void orc_native_fault(void *ucontext);

#endif
