// Architectural constants of the x86, under the names of the Intel SDM and AMD APM. Facts only: no code, no state.
#ifndef POGO_ISA_X86_H
#define POGO_ISA_X86_H

#include "pogo/types.h"

// General registers in encoding order.
enum x86_gpr {
    X86_RAX,
    X86_RCX,
    X86_RDX,
    X86_RBX,
    X86_RSP,
    X86_RBP,
    X86_RSI,
    X86_RDI,
    X86_R8,
    X86_R9,
    X86_R10,
    X86_R11,
    X86_R12,
    X86_R13,
    X86_R14,
    X86_R15,
    X86_GPR_COUNT
};

// Segment registers in encoding order; LDTR and TR follow because they too have a selector and a cached descriptor.
enum x86_sreg { X86_ES, X86_CS, X86_SS, X86_DS, X86_FS, X86_GS, X86_LDTR, X86_TR, X86_SREG_COUNT };

// RFLAGS. SDM 1 3.4.3.
#define X86_FL_CF 0x00000001u
#define X86_FL_RSVD1 0x00000002u // always set
#define X86_FL_PF 0x00000004u
#define X86_FL_AF 0x00000010u
#define X86_FL_ZF 0x00000040u
#define X86_FL_SF 0x00000080u
#define X86_FL_TF 0x00000100u
#define X86_FL_IF 0x00000200u
#define X86_FL_DF 0x00000400u
#define X86_FL_OF 0x00000800u
#define X86_FL_IOPL 0x00003000u
#define X86_FL_IOPL_SHIFT 12
#define X86_FL_NT 0x00004000u
#define X86_FL_RF 0x00010000u
#define X86_FL_VM 0x00020000u
#define X86_FL_AC 0x00040000u
#define X86_FL_VIF 0x00080000u
#define X86_FL_VIP 0x00100000u
#define X86_FL_ID 0x00200000u
#define X86_FL_STATUS (X86_FL_CF | X86_FL_PF | X86_FL_AF | X86_FL_ZF | X86_FL_SF | X86_FL_OF)
#define X86_FL_ALL 0x003f7fd5u // every bit that software can set

// CR0. SDM 3A 2.5.
#define X86_CR0_PE 0x00000001u
#define X86_CR0_MP 0x00000002u
#define X86_CR0_EM 0x00000004u
#define X86_CR0_TS 0x00000008u
#define X86_CR0_ET 0x00000010u
#define X86_CR0_NE 0x00000020u
#define X86_CR0_WP 0x00010000u
#define X86_CR0_AM 0x00040000u
#define X86_CR0_NW 0x20000000u
#define X86_CR0_CD 0x40000000u
#define X86_CR0_PG 0x80000000u

// CR3.
#define X86_CR3_PCID 0xfffull
#define X86_CR3_NOFLUSH (1ull << 63)

// CR4.
#define X86_CR4_VME 0x000001u
#define X86_CR4_PVI 0x000002u
#define X86_CR4_TSD 0x000004u
#define X86_CR4_DE 0x000008u
#define X86_CR4_PSE 0x000010u
#define X86_CR4_PAE 0x000020u
#define X86_CR4_MCE 0x000040u
#define X86_CR4_PGE 0x000080u
#define X86_CR4_PCE 0x000100u
#define X86_CR4_OSFXSR 0x000200u
#define X86_CR4_OSXMMEXCPT 0x000400u
#define X86_CR4_UMIP 0x000800u
#define X86_CR4_LA57 0x001000u
#define X86_CR4_VMXE 0x002000u
#define X86_CR4_SMXE 0x004000u
#define X86_CR4_FSGSBASE 0x010000u
#define X86_CR4_PCIDE 0x020000u
#define X86_CR4_OSXSAVE 0x040000u
#define X86_CR4_SMEP 0x100000u
#define X86_CR4_SMAP 0x200000u
#define X86_CR4_PKE 0x400000u
#define X86_CR4_CET 0x800000u

// XCR0.
#define X86_XCR0_X87 0x1u
#define X86_XCR0_SSE 0x2u
#define X86_XCR0_AVX 0x4u

// EFER. APM 2 3.1.7.
#define X86_EFER_SCE 0x0001u
#define X86_EFER_LME 0x0100u
#define X86_EFER_LMA 0x0400u
#define X86_EFER_NXE 0x0800u
#define X86_EFER_SVME 0x1000u
#define X86_EFER_LMSLE 0x2000u
#define X86_EFER_FFXSR 0x4000u

// Debug registers. SDM 3B 18.2.
#define X86_DR6_B(n) (1u << (n))
#define X86_DR6_BD 0x2000u
#define X86_DR6_BS 0x4000u
#define X86_DR6_BT 0x8000u
#define X86_DR6_FIXED 0xffff0ff0u // bits that read as one
#define X86_DR7_L(n) (1u << ((n)*2))
#define X86_DR7_G(n) (2u << ((n)*2))
#define X86_DR7_LE 0x0100u
#define X86_DR7_GE 0x0200u
#define X86_DR7_GD 0x2000u
#define X86_DR7_FIXED 0x0400u
#define X86_DR7_RW(dr7, n) (((dr7) >> (16 + (n)*4)) & 3)  // 0 execute, 1 write, 2 I/O, 3 read or write
#define X86_DR7_LEN(dr7, n) (((dr7) >> (18 + (n)*4)) & 3) // 0: 1 byte, 1: 2, 2: 8, 3: 4

// Exception vectors. SDM 3A 6.3.1.
enum x86_vector {
    X86_EXC_DE = 0,
    X86_EXC_DB = 1,
    X86_EXC_NMI = 2,
    X86_EXC_BP = 3,
    X86_EXC_OF = 4,
    X86_EXC_BR = 5,
    X86_EXC_UD = 6,
    X86_EXC_NM = 7,
    X86_EXC_DF = 8,
    X86_EXC_TS = 10,
    X86_EXC_NP = 11,
    X86_EXC_SS = 12,
    X86_EXC_GP = 13,
    X86_EXC_PF = 14,
    X86_EXC_MF = 16,
    X86_EXC_AC = 17,
    X86_EXC_MC = 18,
    X86_EXC_XM = 19,
    X86_EXC_CP = 21
};

// Page-fault error code. SDM 3A 4.7.
#define X86_PF_P 0x01u
#define X86_PF_W 0x02u
#define X86_PF_U 0x04u
#define X86_PF_RSVD 0x08u
#define X86_PF_I 0x10u

// Selector error code: EXT and IDT bits, TI, index. SDM 3A 6.13.
#define X86_ERR_EXT 1u
#define X86_ERR_IDT 2u
#define X86_SEL_RPL 3u
#define X86_SEL_TI 4u

// Segment attributes: bits 8..23 of a descriptor's high doubleword, shifted right by 8, limit bits cleared.
//   15 G | 14 D/B | 13 L | 12 AVL | 11..8 zero | 7 P | 6..5 DPL | 4 S | 3..0 type        bit 16: unusable (null selector)
#define X86_SEG_TYPE 0x000fu
#define X86_SEG_A 0x0001u // accessed (S=1)
#define X86_SEG_W 0x0002u // data: writable; code: readable
#define X86_SEG_R 0x0002u
#define X86_SEG_E 0x0004u // data: expand-down; code: conforming
#define X86_SEG_C 0x0004u
#define X86_SEG_CODE 0x0008u
#define X86_SEG_S 0x0010u
#define X86_SEG_DPL(attr) (((attr) >> 5) & 3)
#define X86_SEG_DPL_SHIFT 5
#define X86_SEG_P 0x0080u
#define X86_SEG_AVL 0x1000u
#define X86_SEG_L 0x2000u
#define X86_SEG_DB 0x4000u
#define X86_SEG_G 0x8000u
#define X86_SEG_UNUSABLE 0x10000u

// System descriptor types (S=0). SDM 3A 3.5.
enum x86_systype {
    X86_SYS_TSS16_AVAIL = 1,
    X86_SYS_LDT = 2,
    X86_SYS_TSS16_BUSY = 3,
    X86_SYS_CALL16 = 4,
    X86_SYS_TASK_GATE = 5,
    X86_SYS_INT16 = 6,
    X86_SYS_TRAP16 = 7,
    X86_SYS_TSS_AVAIL = 9,
    X86_SYS_TSS_BUSY = 11,
    X86_SYS_CALL = 12,
    X86_SYS_INT = 14,
    X86_SYS_TRAP = 15
};

// Page-table entries. SDM 3A 4.5.
#define X86_PTE_P 0x001ull
#define X86_PTE_W 0x002ull
#define X86_PTE_U 0x004ull
#define X86_PTE_PWT 0x008ull
#define X86_PTE_PCD 0x010ull
#define X86_PTE_A 0x020ull
#define X86_PTE_D 0x040ull
#define X86_PTE_PS 0x080ull
#define X86_PTE_G 0x100ull
#define X86_PTE_NX (1ull << 63)

// MSRs. SDM 4; APM 2 appendix A.
#define X86_MSR_TSC 0x00000010u
#define X86_MSR_PLATFORM_ID 0x00000017u
#define X86_MSR_APIC_BASE 0x0000001bu
#define X86_MSR_FEATURE_CONTROL 0x0000003au
#define X86_MSR_TSC_ADJUST 0x0000003bu
#define X86_MSR_SPEC_CTRL 0x00000048u
#define X86_MSR_PRED_CMD 0x00000049u
#define X86_MSR_BIOS_UPDT_TRIG 0x00000079u
#define X86_MSR_BIOS_SIGN_ID 0x0000008bu
#define X86_MSR_MPERF 0x000000e7u
#define X86_MSR_APERF 0x000000e8u
#define X86_MSR_MTRRCAP 0x000000feu
#define X86_MSR_ARCH_CAPABILITIES 0x0000010au
#define X86_MSR_SYSENTER_CS 0x00000174u
#define X86_MSR_SYSENTER_ESP 0x00000175u
#define X86_MSR_SYSENTER_EIP 0x00000176u
#define X86_MSR_MCG_CAP 0x00000179u
#define X86_MSR_MCG_STATUS 0x0000017au
#define X86_MSR_MCG_CTL 0x0000017bu
#define X86_MSR_MISC_ENABLE 0x000001a0u
#define X86_MSR_DEBUGCTL 0x000001d9u
#define X86_MSR_MTRR_PHYSBASE0 0x00000200u
#define X86_MSR_MTRR_FIX64K_00000 0x00000250u
#define X86_MSR_PAT 0x00000277u
#define X86_MSR_MTRR_DEF_TYPE 0x000002ffu
#define X86_MSR_TSC_DEADLINE 0x000006e0u
#define X86_MSR_X2APIC_FIRST 0x00000800u
#define X86_MSR_XSS 0x00000da0u
#define X86_MSR_KVM_WALL_CLOCK_NEW 0x4b564d00u
#define X86_MSR_KVM_SYSTEM_TIME_NEW 0x4b564d01u
#define X86_MSR_EFER 0xc0000080u
#define X86_MSR_STAR 0xc0000081u
#define X86_MSR_LSTAR 0xc0000082u
#define X86_MSR_CSTAR 0xc0000083u
#define X86_MSR_SFMASK 0xc0000084u
#define X86_MSR_FS_BASE 0xc0000100u
#define X86_MSR_GS_BASE 0xc0000101u
#define X86_MSR_KERNEL_GS_BASE 0xc0000102u
#define X86_MSR_TSC_AUX 0xc0000103u
#define X86_MSR_SYSCFG 0xc0010010u
#define X86_MSR_HWCR 0xc0010015u
#define X86_MSR_VM_CR 0xc0010114u
#define X86_MSR_VM_HSAVE_PA 0xc0010117u

// MXCSR.
#define X86_MXCSR_FLAGS 0x003fu
#define X86_MXCSR_DAZ 0x0040u
#define X86_MXCSR_MASKS 0x1f80u
#define X86_MXCSR_MASK_SHIFT 7
#define X86_MXCSR_FTZ 0x8000u
#define X86_MXCSR_DEFAULT 0x1f80u
#define X86_MXCSR_VALID 0xffffu // what every processor with SSE2 can set
#define X86_MXCSR_MM 0x20000u   // misaligned mode (CPUID misalignsse). APM 1 4.2.2

// x87 status and control words.
#define X86_FSW_ES 0x0080u // an unmasked exception is pending
#define X86_FSW_B 0x8000u
#define X86_FCW_DEFAULT 0x037fu

#endif
