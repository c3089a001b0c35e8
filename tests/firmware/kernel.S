// A bzImage for firmware to start: its setup looks whether everything is where the header and the boot protocol say, and leaves by
// isa-debug-exit with the number of the first check that fails, or 0x20.
        .code16
        .text
image:
        .org    0x1f1
        .byte   1                       // setup_sects
        .word   0
        .long   (payload_end - payload) / 16
        .word   0, 0, 0
        .word   0xaa55
        .byte   0xeb, start - header    // jump; and where the header ends
header:
        .ascii  "HdrS"
        .word   0x20c
        .long   0
        .word   0, 0
        .byte   0, 1                    // loaded high
        .word   0
        .long   0x100000                // code32_start
ramdisk:
        .long   0
ramdisk_size:
        .long   0
        .long   0
heap_end:
        .word   0
        .word   0
cmd_line_ptr:
        .long   0
        .long   0x37ffffff              // initrd_addr_max
        .long   0x1000
        .byte   0, 12
        .word   0                       // xloadflags: a 32-bit kernel
        .long   255                     // cmdline_size
        .org    0x258
        .quad   0x100000                // pref_address
        .long   0x1000                  // init_size
        .org    0x268
start:
        .macro  expect n
        mov     $\n, %al
        jne     leave
        .endm

        mov     %cs, %ax
        cmp     $0x1020, %ax
        expect  1
        mov     %ds, %ax
        cmp     $0x1000, %ax
        expect  2
        mov     %ss, %ax
        cmp     $0x1000, %ax
        expect  3
        cmpb    $0xff, 0x210
        expect  4
        testb   $0x80, 0x211            // there is a heap
        sete    %al
        cmp     $0, %al
        expect  5
        cmpl    $0x20000, cmd_line_ptr - image
        expect  6
        cmpl    $12, ramdisk_size - image
        expect  7
        // Segments of 4 GiB for what lies high.
        cli
        lgdtl   gdtr - image
        mov     %cr0, %eax
        or      $1, %al
        mov     %eax, %cr0
        mov     $8, %bx
        mov     %bx, %es
        and     $0xfe, %al
        mov     %eax, %cr0
        xor     %ax, %ax
        mov     %ax, %es
        mov     $0x20000, %edi
        cmpl    $0x64726f77, %es:(%edi) // "word"
        expect  8
        cmpb    $0, %es:4(%edi)
        expect  9
        mov     $0x100000, %edi
        cmpl    $0x6c796170, %es:(%edi) // "payl"
        expect  10
        cmpl    $0x646e6520, %es:28(%edi)
        expect  11
        mov     ramdisk - image, %edi
        cmpl    $0x74696e69, %es:(%edi) // "init"
        expect  12
        cmpb    $'!', %es:9(%edi)
        expect  13
        mov     $0x20, %al
leave:
        out     %al, $0xf4
1:
        hlt
        jmp     1b

gdtr:
        .word   15
        .long   0x10000 + gdt - image
        .balign 8
gdt:
        .quad   0, 0x008f92000000ffff   // data, 4 GiB
        .org    0x400
payload:
        .ascii  "payload of the kernel       " // 28 bytes
        .ascii  " end"
        .org    0x420
payload_end:
