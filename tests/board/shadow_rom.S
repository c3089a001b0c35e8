// A firmware ROM of 64 KiB that moves itself into the RAM below it: the program of test_shadow.c. What it finds goes to ports 0x80
// (a step's number) and to memory from 0x500 on, a byte a step:
//
//   0  which copy of the routine runs while reads are the ROM's and writes the RAM's
//   1  which one runs when both are the RAM's
//   2  the same after another change of it
//   3  the routine's byte after a store while writes go nowhere, still in RAM
//   4  which copy runs when all is as at first
        .section .rodata
        .code16
        .globl  shadow_rom, shadow_rom_end
        .balign 16
shadow_rom:
start:
        xor     %ax, %ax
        mov     %ax, %ds
        mov     %ax, %ss
        mov     $0x7000, %sp
        mov     $0xf000, %ax
        mov     %ax, %es
        mov     $0x80000058, %eax
        mov     $0xcf8, %dx
        out     %eax, %dx
        mov     $0xcfd, %dx             // PAM0
        mov     $0x20, %al              // stores reach the RAM
        out     %al, %dx
        xor     %si, %si
        xor     %di, %di
        mov     $0x4000, %cx
        rep movsl %es:(%si), %es:(%di)
        movb    $0x22, %es:patch - start
        call    which
        mov     %al, 0x500
        mov     $0x30, %al              // and so do loads
        out     %al, %dx
        call    which
        mov     %al, 0x501
        movb    $0x33, %es:patch - start
        call    which
        mov     %al, 0x502
        mov     $0x10, %al              // loads alone
        out     %al, %dx
        movb    $0x44, %es:patch - start
        mov     %es:patch - start, %al
        mov     %al, 0x503
        mov     $0x00, %al
        out     %al, %dx
        call    which
        mov     %al, 0x504
        cli
        hlt

which:
        .byte   0xb0                    // mov $0x11, %al
patch:
        .byte   0x11
        ret

        .org    0xfff0, 0xff
        ljmp    $0xf000, $0
        .org    0x10000, 0xff
shadow_rom_end:

        .section .note.GNU-stack, "", @progbits
