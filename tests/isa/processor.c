// The decoder against the processor it runs on: which encodings are #UD, and how many bytes are fetched before that is
// known.
//
//   processor [--count N] [--seed S] [--all] [--verbose]
//
// An encoding is put at the very end of a page that nothing follows, and entered with TF set and every register pointing
// nowhere. Three things can be seen: #UD at its start (invalid); a page fault for the missing page with RIP still at the
// start (more bytes wanted); anything else (valid). Each encoding runs twice, with as many bytes as the decoder says it
// uses and with one less. 64-bit code, and 32-bit code through the 32-bit code segment.
//
// The whole loop lives in the signal handler: it judges what just happened, writes the next encoding, and returns into it.
// No more than one instruction runs at a time and no register holds a useful value, so nothing can be reached: not memory
// (nothing else is mapped below 4 GiB), not the system (the number is that of no system call).
#include <cpuid.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <Zydis/Zydis.h>

#include "isa/insn.h"

#define CODE_BASE 0x40000000ull
#define NOWHERE 0x7a7a7000ull // not mapped, and in 16 bits a selector beyond every table
#define TRAP_FLAG 0x100
#define BUF 40

static u8 *page_end;
static ZydisDecoder zydis64, zydis32;
static u64 encodings, runs, skipped, differences, wanted = 200000, rng_state = 0x9e3779b97f4a7c15ull;
static bool verbose, all;

// The encoding being tried.
static struct {
    u8 bytes[BUF];
    enum isa_mode mode;
    enum isa_status status; // the decoder's, with enough bytes
    struct insn in;
    size_t used;  // bytes it takes
    size_t given; // bytes of this run
} now;

static u64 rng(void)
{
    rng_state ^= rng_state >> 12;
    rng_state ^= rng_state << 25;
    rng_state ^= rng_state >> 27;
    return rng_state * 0x2545f4914f6cdd1dull;
}

// --- which encodings -----------------------------------------------------------------------------------------------------

static bool host_has(unsigned feature)
{
    static u8 cache[ISA_FEAT_COUNT]; // 1 no, 2 yes
    const struct isa_feature_info *f = &isa_features[feature];
    unsigned r[4];
    if (feature == ISA_FEAT_NONE)
        return true;
    if (!cache[feature]) {
        bool leaf = __get_cpuid_count(f->leaf, f->subleaf, &r[0], &r[1], &r[2], &r[3]);
        cache[feature] = leaf && r[f->reg] >> f->bit & 1 ? 2 : 1;
    }
    return cache[feature] == 2;
}

// Instructions that are #UD in user mode, or without a feature or mode that this test does not look for.
static bool may_be_undefined(const struct insn *in)
{
    const struct isa_form_info *f = &isa_forms[in->form];
    switch (in->op) {
    case ISA_OP_UD0:
    case ISA_OP_UD1:
    case ISA_OP_UD2:
    case ISA_OP_RSM:
    case ISA_OP_CLAC:
    case ISA_OP_STAC:
    case ISA_OP_MONITOR:
    case ISA_OP_MWAIT:
    case ISA_OP_MONITORX:
    case ISA_OP_MWAITX:
    case ISA_OP_SYSENTER:
    case ISA_OP_SYSEXIT:
    case ISA_OP_SYSCALL:
    case ISA_OP_SYSRET:
    case ISA_OP_RDPKRU:
    case ISA_OP_WRPKRU:
    case ISA_OP_RDPRU:
    case ISA_OP_XRSTORS:
    case ISA_OP_XSAVES: return true;
    default:
        return f->feature == ISA_FEAT_VMX || f->feature == ISA_FEAT_SVM || f->feature == ISA_FEAT_SKINIT ||
               !host_has(f->feature);
    }
}

// Instructions that would leave this process unable to handle the next signal.
static bool harmful(const struct insn *in)
{
    return in->op == ISA_OP_WRFSBASE || in->op == ISA_OP_WRGSBASE || in->op == ISA_OP_VMMCALL ||
           in->op == ISA_OP_VMCALL;
}

// Known differences (QUIRKS.md): 0F 78 and 0F 79 are VMREAD and VMWRITE here, EXTRQ and INSERTQ with immediates for the
// processor; VPERMQ and VPERMPD with W0, and LOCK VERW, run on it though the manuals make them #UD; VMCALL goes to the
// hypervisor.
static bool known_difference(const struct insn *in)
{
    if (in->map == ISA_MAP_0F)
        return in->opcode == 0x78 || in->opcode == 0x79 || (in->opcode == 0x01 && in->modrm == 0xc1) ||
               (in->opcode == 0x00 && (in->modrm >> 3 & 7) == 5 && now.status == ISA_INVALID);
    return in->enc == ISA_ENC_VEX3 && in->map == ISA_MAP_0F3A && in->opcode <= 1 && now.status == ISA_INVALID;
}

// What the processor may have and the table leaves out, as Zydis names it.
static bool left_out(const u8 *bytes, enum isa_mode mode)
{
    ZydisDecodedInstruction z;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    u8 op = now.in.opcode;
    // Opmask instructions; Zydis is stricter about their registers than the processor.
    if (now.in.enc != ISA_ENC_LEGACY && now.in.map == ISA_MAP_0F &&
        ((op >= 0x41 && op <= 0x4b) || (op >= 0x90 && op <= 0x93) || op == 0x98 || op == 0x99))
        return true;
    const ZydisDecoder *d = mode == ISA_MODE_64 ? &zydis64 : &zydis32;
    if (ZYAN_FAILED(ZydisDecoderDecodeFull(d, bytes, 15, &z, operands)))
        return false;
    switch (z.meta.isa_ext) {
    case ZYDIS_ISA_EXT_AVX512EVEX:
    case ZYDIS_ISA_EXT_AVX512VEX:
    case ZYDIS_ISA_EXT_AVX_VNNI:
    case ZYDIS_ISA_EXT_AMD_INVLPGB:
    case ZYDIS_ISA_EXT_SNP:
    case ZYDIS_ISA_EXT_MCOMMIT: return true;
    default: return z.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX;
    }
}

static void make_encoding(void)
{
    static const u8 prefixes[] = {0x66, 0x67, 0xf2, 0xf3, 0xf0, 0x2e, 0x65};
    u8 *b = now.bytes;
    size_t n = 0;
    u64 r = rng();
    now.mode = r & 1 ? ISA_MODE_64 : ISA_MODE_32;
    for (size_t i = 0; i < BUF; i += 8) {
        u64 v = rng();
        memcpy(b + i, &v, 8);
    }
    for (unsigned count = (r >> 1 & 3) == 3 ? r >> 3 & 3 : (r >> 1 & 3) == 2; count; count--)
        b[n++] = prefixes[rng() % sizeof prefixes];
    if (now.mode == ISA_MODE_64 && (r >> 5 & 3) == 0)
        b[n++] = 0x40 | (r >> 7 & 15);
    switch (r >> 11 & 7) {
    case 0:
    case 1: b[n] = 0x0f; break;
    case 2:
    case 3:
        b[n] = 0x0f;
        b[n + 1] = r >> 14 & 1 ? 0x38 : 0x3a;
        break;
    case 4:
        b[n] = 0xc5;
        b[n + 1] |= 0xc0 | (r >> 24 & 1 ? 0x38 : 0);
        break;
    case 5:
        b[n] = 0xc4;
        b[n + 1] = 0xc0 | (b[n + 1] & 0x20) | (1 + (r >> 15 & 0xff) % 3);
        b[n + 2] |= r >> 24 & 1 ? 0x78 : 0;
        break;
    default: break;
    }
}

// --- judging -------------------------------------------------------------------------------------------------------------

static void complain(const char *expected, const char *seen)
{
    char hex[64] = "";
    differences++;
    for (size_t i = 0; i < now.used && i < 16; i++)
        snprintf(hex + 3 * i, sizeof hex - 3 * i, "%02x ", now.bytes[i]);
    if (differences <= 40 || verbose)
        printf("%d-bit %s(%zu of %zu bytes, %s): expected %s, processor %s\n", now.mode == ISA_MODE_64 ? 64 : 32, hex,
               now.given, now.used, now.status == ISA_OK ? isa_forms[now.in.form].name : "invalid", expected, seen);
}

// EVEX may be valid on the processor; only its length is of interest.
static bool is_evex(void)
{
    return now.in.enc == ISA_ENC_LEGACY && now.in.map == ISA_MAP_1 && now.bytes[now.in.opcode_off] == 0x62;
}

static void judge(int sig, const ucontext_t *uc)
{
    const greg_t *g = uc->uc_mcontext.gregs;
    u64 start = CODE_BASE + 4096 - now.given, end = CODE_BASE + 4096;
    bool at_start = (u64)g[REG_RIP] == start;
    bool fetch =
        sig == SIGSEGV && g[REG_TRAPNO] == X86_EXC_PF && at_start && (u64)g[REG_CR2] == end && g[REG_ERR] & X86_PF_I;
    bool undefined = sig == SIGILL && at_start;
    const char *seen = fetch ? "wants more" : undefined ? "#UD" : "runs it";
    runs++;
    if (now.given < now.used) {
        if (!fetch)
            complain("to want more", seen);
    } else if (now.status == ISA_INVALID) {
        if (!undefined && !(is_evex() && !fetch))
            complain("#UD", seen);
    } else if (fetch || undefined) {
        complain("to run it", seen);
    }
}

static bool next_encoding(void)
{
    for (;;) {
        if (encodings == wanted)
            return false;
        make_encoding();
        now.status = isa_decode(now.bytes, BUF, now.mode, ISA_OPT_AMD, &now.in);
        now.used = now.in.len;
        if (now.status != ISA_TOO_LONG && !(now.status == ISA_OK && (may_be_undefined(&now.in) || harmful(&now.in))) &&
            !known_difference(&now.in) && !left_out(now.bytes, now.mode))
            break;
        skipped++;
    }
    encodings++;
    return true;
}

static void enter(ucontext_t *uc)
{
    greg_t *g = uc->uc_mcontext.gregs;
    static const int registers[] = {REG_RAX, REG_RBX, REG_RCX, REG_RDX, REG_RSI, REG_RDI, REG_RBP, REG_RSP,
                                    REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
    memcpy(page_end - now.given, now.bytes, now.given);
    for (size_t i = 0; i < ARRAY_LEN(registers); i++)
        g[registers[i]] = NOWHERE;
    g[REG_RIP] = (greg_t)(CODE_BASE + 4096 - now.given);
    g[REG_EFL] = TRAP_FLAG | 0x202;
    g[REG_CSGSFS] = (g[REG_CSGSFS] & ~0xffffll) | (now.mode == ISA_MODE_64 ? 0x33 : 0x23);
}

static _Noreturn void finish(void)
{
    printf("processor: %" PRIu64 " encodings in %" PRIu64 " runs, %" PRIu64 " left out, %" PRIu64 " differences\n",
           encodings, runs, skipped, differences);
    fflush(stdout);
    _exit(differences != 0);
}

static void on_signal(int sig, siginfo_t *si, void *context)
{
    static bool started;
    ucontext_t *uc = context;
    (void)si;
    if (started)
        judge(sig, uc);
    bool shorter = started && now.given == now.used && now.used > 1;
    started = true;
    if (shorter) {
        now.given--;
    } else {
        if (!next_encoding())
            finish();
        now.given = now.used;
    }
    enter(uc);
}

// --- main ----------------------------------------------------------------------------------------------------------------

static bool known_processor(void)
{
    unsigned a, b, c, d;
    __cpuid(0, a, b, c, d);
    if (b != signature_AMD_ebx)
        return false;
    __cpuid(1, a, b, c, d);
    return (a >> 8 & 15) + (a >> 20 & 0xff) == 0x19;
}

static void set_up(void)
{
    static const int signals[] = {SIGILL, SIGSEGV, SIGBUS, SIGTRAP, SIGFPE};
    static u8 stack[65536];
    stack_t ss = {.ss_sp = stack, .ss_size = sizeof stack};
    struct sigaction sa = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigfillset(&sa.sa_mask);
    sigaltstack(&ss, NULL);
    for (size_t i = 0; i < ARRAY_LEN(signals); i++)
        sigaction(signals[i], &sa, NULL);
    u8 *page = mmap((void *)CODE_BASE, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (page == MAP_FAILED) {
        printf("no executable page at a fixed address\n");
        exit(77);
    }
    page_end = page + 4096;
    ZydisDecoderInit(&zydis64, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    ZydisDecoderInit(&zydis32, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--count") && i + 1 < argc) {
            wanted = strtoull(argv[++i], NULL, 0);
        } else if (!strcmp(argv[i], "--seed") && i + 1 < argc) {
            rng_state = strtoull(argv[++i], NULL, 0) | 1;
        } else if (!strcmp(argv[i], "--all")) {
            all = true;
        } else if (!strcmp(argv[i], "--verbose")) {
            verbose = true;
        } else {
            fprintf(stderr, "usage: processor [--count N] [--seed S] [--all] [--verbose]\n");
            return 2;
        }
    }
    if (!known_processor() && !all) {
        printf("the decoder's details are those of AMD family 19h; this is another processor (--all runs anyway)\n");
        return 77;
    }
    set_up();
    raise(SIGTRAP);
    return 2; // not reached: the handler exits
}
