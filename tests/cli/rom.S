// A 64 KiB ROM: from the reset vector to the copy below 1 MiB, checks that it cannot be written, exits with status 2 * 5 + 1.
    .code16
    .globl start
start:
    mov $0xf000, %ax
    mov %ax, %ds
    mov magic, %ax
    movw $0x1234, magic
    cmp magic, %ax
    mov $6, %al
    jne 1f
    mov $5, %al
1:  mov $0xf4, %dx
    out %al, %dx
2:  hlt
    jmp 2b
magic: .word 0x55aa
    .org 0xfff0
    ljmp $0xf000, $start
    .org 0x10000
