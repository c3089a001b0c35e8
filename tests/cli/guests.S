// Small multiboot guests for the command-line tests; one per symbol TEST_*.
    .text
    .align 4
    .long 0x1badb002, 0, -0x1badb002
    .globl _start
_start:
#if defined(TEST_TRIPLE)        // no IDT: an exception shuts the processor down
    mov $0x1234, %ecx
    lidt none
    ud2
none: .long 0, 0
#elif defined(TEST_EXIT)        // status 2 * 0x15 + 1
    mov $0x15, %eax
    mov $0xf4, %edx
    out %eax, %dx
#elif defined(TEST_RESET)       // through port 92
    mov $3, %al
    out %al, $0x92
#elif defined(TEST_ECHO)        // serial input to serial output until '.', then status 1
    mov $0x3f8 + 5, %edx
1:  in (%dx), %al
    test $1, %al
    jz 1b
    mov $0x3f8, %edx
    in (%dx), %al
    out %al, (%dx)
    cmp $'.', %al
    mov $0x3f8 + 5, %edx
    jne 1b
    xor %eax, %eax
    mov $0xf4, %edx
    out %eax, %dx
#elif defined(TEST_SPAM)        // serial output without end
    mov $0x3f8, %edx
    mov $'x', %al
1:  out %al, (%dx)
    jmp 1b
#elif defined(TEST_LAST)        // last words
    mov $0x3f8, %edx
    mov $'x', %al
    out %al, (%dx)
    lidt none
    ud2
none: .long 0, 0
#elif defined(TEST_COMS)        // a letter to each serial port, then status 1
    mov $'1', %al
    mov $0x3f8, %edx
    out %al, (%dx)
    inc %al
    mov $0x2f8, %edx
    out %al, (%dx)
    inc %al
    mov $0x3e8, %edx
    out %al, (%dx)
    inc %al
    mov $0x2e8, %edx
    out %al, (%dx)
    xor %eax, %eax
    mov $0xf4, %edx
    out %eax, %dx
#elif defined(TEST_BURST)       // 300000 characters as fast as it goes, the last a '.', then status 1
    mov $0x3f8, %edx
    mov $299999, %ecx
    mov $'x', %al
1:  out %al, (%dx)
    loop 1b
    mov $'.', %al
    out %al, (%dx)
    xor %eax, %eax
    mov $0xf4, %edx
    out %eax, %dx
#elif defined(TEST_POLITE)      // the same, but only when the transmitter is empty
    mov $300000, %ecx
1:  mov $0x3f8 + 5, %edx
    in (%dx), %al
    test $0x20, %al
    jz 1b
    mov $'x', %al
    mov $0x3f8, %edx
    out %al, (%dx)
    loop 1b
    xor %eax, %eax
    mov $0xf4, %edx
    out %eax, %dx
#elif defined(TEST_OFF)         // switches itself off by ACPI's PM1 control register
    mov $0x2000, %eax
    mov $0x604, %edx
    out %ax, %dx
#elif defined(TEST_DEBUGCON)    // OK through port 0xe9, if it answers as it should
    mov $0xe9, %edx
    in (%dx), %al
    cmp $0xe9, %al
    jne 2f
    mov $'O', %al
    out %al, (%dx)
    mov $'K', %al
    out %al, (%dx)
2:  xor %eax, %eax
    mov $0xf4, %edx
    out %eax, %dx
#endif
3:  hlt
    jmp 3b
