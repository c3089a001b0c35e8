// Fixed low addresses of the native side, for C and assembly: the context page and the exit thunks page.
#ifndef POGO_ORACLE_LAYOUT_H
#define POGO_ORACLE_LAYOUT_H

#define CTX 0x13570000    // struct native_ctx, read-write
#define THUNKS 0x13572000 // far-jump targets for 32- and 16-bit code, read-execute
#define THUNK_SIZE 16

// Offsets in struct native_ctx.
#define CTX_GPR 0 // 16 x 8
#define CTX_RFLAGS 128
#define CTX_TARGET 136 // 64-bit: rip; else m16:32 far pointer
#define CTX_HOST_RSP 144
#define CTX_HOST_FS 152
#define CTX_HOST_GS 160
#define CTX_LAND 168 // which exit was taken
#define CTX_EXIT 176 // 2 x 8: addresses of the exits
#define CTX_FS 192
#define CTX_GS 200
#define CTX_SEL 208    // 6 x 2: ES CS SS DS FS GS
#define CTX_OUT_XS 224 // where XSAVE goes
#define CTX_IN_TEST 232
#define CTX_SEGS 236 // segment registers and bases need loading
#define CTX_ENV 240  // FNSTENV's 28 bytes

// Offsets in struct orc_state.
#define ST_XS 0
#define ST_GPR 832
#define ST_RIP 960
#define ST_RFLAGS 968
#define ST_FS 976
#define ST_GS 984
#define ST_SEL 992

// Ways in.
#define ENTER_64 0          // popf, jmp
#define ENTER_FAR 1         // popf, far jmp to 32- or 16-bit code
#define ENTER_IRET 2        // iretq: single step
#define ENTER_IRET_LEGACY 3 // the same into 32- or 16-bit code

#endif
