// The instructions that are sensitive but do not trap (Robin and Irvine 2000), at ring 3 as on bare hardware: what they reveal
// and what they silently ignore; and UMIP, which makes some of them trap. Alignment checks too, since they depend on CPL.
//
// QEMU 7.2's TCG differs in 3 checks: LAR hides limit bits 19:16 (the manuals leave them undefined, processors show them), the
// error code of INT at CPL 3 is 16 times the vector, and it has no alignment checks.
#include "guest.h"

const char guest_name[] = "sens64";

struct __attribute__((packed)) image {
    u16 limit;
    u64 base;
};

USER static word user_sgdt(word arg)
{
    __asm__ volatile("sgdt (%0)" ::"r"(arg) : "memory");
    return 1;
}

USER static word user_sidt(word arg)
{
    __asm__ volatile("sidt (%0)" ::"r"(arg) : "memory");
    return 1;
}

USER static word user_sldt(word arg)
{
    word v = ~0ull;
    __asm__ volatile("sldt %0" : "+r"(v));
    return v + arg;
}

USER static word user_str(word arg)
{
    word v = ~0ull;
    __asm__ volatile("str %0" : "+r"(v));
    return v + arg;
}

USER static word user_smsw(word arg)
{
    word v;
    __asm__ volatile("smsw %0" : "=r"(v));
    return v + arg;
}

static void tables_visible(void)
{
    static struct image got, want;
    __asm__ volatile("sgdt %0" : "=m"(want));
    run_user(user_sgdt, (word)&got);
    CHECK_TRAP(0x80);
    CHECK_EQ(got.base, want.base);
    CHECK_EQ(got.limit, want.limit);
    CHECK_EQ(want.base, (word)gdt);
    __asm__ volatile("sidt %0" : "=m"(want));
    run_user(user_sidt, (word)&got);
    CHECK_TRAP(0x80);
    CHECK_EQ(got.base, want.base);
    CHECK_EQ(got.limit, want.limit);
    run_user(user_sldt, 0);
    CHECK_EQ(user_result, 0);
    run_user(user_str, 0);
    CHECK_EQ(user_result, SEL_TSS);
    run_user(user_smsw, 0);
    CHECK_EQ(user_result, read_cr0());
}

static void umip(void)
{
    u32 r[4];
    cpuid(7, 0, r);
    if (!(r[2] >> 2 & 1))
        return;
    static struct image image;
    write_cr4(read_cr4() | 0x800);
    run_user(user_sgdt, (word)&image);
    CHECK_TRAP_ERR(13, 0);
    run_user(user_sidt, (word)&image);
    CHECK_TRAP_ERR(13, 0);
    run_user(user_sldt, 0);
    CHECK_TRAP_ERR(13, 0);
    run_user(user_str, 0);
    CHECK_TRAP_ERR(13, 0);
    run_user(user_smsw, 0);
    CHECK_TRAP_ERR(13, 0);
    TRY(__asm__ volatile("sgdt %0" : "=m"(image)));
    CHECK_TRAP(-1);
    write_cr4(read_cr4() & ~0x800ull);
}

// POPF at ring 3 ignores IF (and IOPL) without a fault; PUSHF shows the real ones.
USER static word user_popf(word arg)
{
    write_flags(arg);
    return read_flags();
}

USER static word user_cs(word arg)
{
    word v;
    __asm__ volatile("mov %%cs, %0" : "=r"(v));
    return v + arg;
}

USER static word user_lar(word arg)
{
    word v = ~0ull;
    bool ok;
    __asm__ volatile("lar %k2, %k0" : "+r"(v), "=@ccz"(ok) : "r"(arg));
    return ok ? v : ~0ull;
}

USER static word user_lsl(word arg)
{
    word v = ~0ull;
    bool ok;
    __asm__ volatile("lsl %k2, %k0" : "+r"(v), "=@ccz"(ok) : "r"(arg));
    return ok ? v : ~0ull;
}

USER static word user_verr(word arg)
{
    bool ok;
    __asm__ volatile("verr %w1" : "=@ccz"(ok) : "r"(arg));
    return ok;
}

USER static word user_verw(word arg)
{
    bool ok;
    __asm__ volatile("verw %w1" : "=@ccz"(ok) : "r"(arg));
    return ok;
}

static word user(word (*fn)(word), word arg)
{
    run_user(fn, arg);
    CHECK_TRAP(0x80);
    return user_result;
}

static void flags_and_selectors(void)
{
    CHECK_EQ(user(user_popf, 0x202) & 0x200, 0); // IF stays clear
    user_flags = 0x200;
    CHECK_EQ(user(user_popf, 0x002) & 0x200, 0x200); // and stays set
    user_flags = 0x3000;
    CHECK_EQ(user(user_popf, 0x002) & 0x3200, 0x3000);  // IOPL is not ring 3's to change...
    CHECK_EQ(user(user_popf, 0x3202) & 0x3200, 0x3200); // ...but IF is, at IOPL 3
    user_flags = 0;
    CHECK_EQ(user(user_popf, 0x244ed7) & 0x244ed7,
             0x244cd7 & ~0x200ull); // what ring 3 may set: ID AC NT OF DF and status
    CHECK_EQ(user(user_cs, 0), SEL_UCODE);
    CHECK_EQ(user(user_lar, SEL_UCODE), 0xaffb00);
    CHECK_EQ(user(user_lar, SEL_CODE), ~0ull); // DPL 0 is invisible
    CHECK_EQ(user(user_lar, 0), ~0ull);
    CHECK_EQ(user(user_lsl, SEL_UDATA), 0xffffffff);
    CHECK_EQ(user(user_lsl, SEL_DATA), ~0ull);
    CHECK_EQ(user(user_verr, SEL_UDATA), 1);
    CHECK_EQ(user(user_verw, SEL_UDATA), 1);
    CHECK_EQ(user(user_verw, SEL_UCODE), 0);
    CHECK_EQ(user(user_verr, SEL_UCODE), 1);
    CHECK_EQ(user(user_verr, SEL_DATA), 0);
    CHECK_EQ(user_lar(SEL_TSS) & 0xff00, 0x8b00);
    CHECK_EQ(user_lsl(SEL_TSS), sizeof tss - 1);
    CHECK_EQ(user_verr(SEL_TSS), 0);
}

// --- privileged at ring 3 -------------------------------------------------------------------------------------------------------

#define USER_INSN(name, insn) \
    USER static word user_##name(word arg) \
    { \
        __asm__ volatile(insn ::"c"(0), "a"(0), "d"(0) : "memory"); \
        return arg; \
    }
USER_INSN(hlt, "hlt")
USER_INSN(cli, "cli")
USER_INSN(sti, "sti")
USER_INSN(clts, "clts")
USER_INSN(in, "inb $0x80, %%al")
USER_INSN(out, "outb %%al, $0x80")
USER_INSN(lgdt, "lgdt 0x200000")
USER_INSN(lidt, "lidt 0x200000")
USER_INSN(lldt, "lldt %%ax")
USER_INSN(ltr, "ltr %%ax")
USER_INSN(lmsw, "lmsw %%ax")
USER_INSN(invlpg, "invlpg 0x200000")
USER_INSN(wbinvd, "wbinvd")
USER_INSN(invd, "invd")
USER_INSN(wrmsr, "wrmsr")

USER_INSN(mov_cr3, "mov %%rax, %%cr3")
USER_INSN(mov_dr7, "mov %%rax, %%db7")
USER_INSN(int13, "int $13")

static void privileged(void)
{
    static word (*const fn[])(word) = {user_hlt,    user_cli,  user_sti,   user_clts,    user_in,     user_out,
                                       user_lgdt,   user_lidt, user_lldt,  user_ltr,     user_lmsw,   user_invlpg,
                                       user_wbinvd, user_invd, user_wrmsr, user_mov_cr3, user_mov_dr7};
    for (unsigned i = 0; i < sizeof fn / sizeof fn[0]; i++) {
        run_user(fn[i], 0);
        check_at(trap.vector == 13 && trap.error == 0, __FILE__, __LINE__,
                 "privileged instruction %u: trap %d error %lx", i, trap.vector, (unsigned long)trap.error);
    }
    run_user(user_int13, 0);
    CHECK_TRAP_ERR(13, 13 * 8 + 2); // gate DPL 0
    // IOPL 3 opens CLI, STI and the ports.
    user_flags = 0x3000;
    run_user(user_cli, 0);
    CHECK_TRAP(0x80);
    run_user(user_in, 0);
    CHECK_TRAP(0x80);
    user_flags = 0;
    // So does the TSS bitmap, port by port.
    tss.iomap = offsetof(struct tss, bitmap);
    for (unsigned i = 0; i < sizeof tss.bitmap; i++)
        tss.bitmap[i] = 0xff;
    run_user(user_in, 0);
    CHECK_TRAP_ERR(13, 0);
    tss.bitmap[0x80 / 8] &= (u8) ~(1u << (0x80 % 8));
    run_user(user_in, 0);
    CHECK_TRAP(0x80);
    run_user(user_out, 0);
    CHECK_TRAP(0x80);
    tss.iomap = sizeof tss;
    run_user(user_in, 0);
    CHECK_TRAP_ERR(13, 0);
}

// --- alignment --------------------------------------------------------------------------------------------------------------------

static u64 cell[2] __attribute__((aligned(16)));

USER static word user_misaligned(word arg)
{
    return *(volatile u32 *)arg;
}

USER static word user_aligned_sse(word arg)
{
    __asm__ volatile("movaps (%0), %%xmm0" ::"r"(arg));
    return 0;
}

static void alignment(void)
{
    word odd = (word)cell + 1;
    run_user(user_misaligned, odd);
    CHECK_TRAP(0x80);
    write_cr0(read_cr0() | 0x40000); // AM
    run_user(user_misaligned, odd);
    CHECK_TRAP(0x80); // EFLAGS.AC is clear
    user_flags = 0x40000;
    run_user(user_misaligned, odd);
    CHECK_TRAP_ERR(17, 0);
    run_user(user_misaligned, (word)cell + 4);
    CHECK_TRAP(0x80);
    run_user(user_aligned_sse, (word)cell + 8);
    CHECK_TRAP_ERR(13, 0); // MOVAPS has its own rule
    user_flags = 0;
    __asm__ volatile("pushf; orq $0x40000, (%%rsp); popf" ::: "memory", "cc");
    TRY(CHECK_EQ(*(volatile u32 *)odd, 0)); // ring 0 is exempt
    CHECK_TRAP(-1);
    write_cr0(read_cr0() & ~0x40000ull);
}

void guest_main(void)
{
    tables_visible();
    umip();
    flags_and_selectors();
    privileged();
    alignment();
}
