// The option ROM that starts a kernel under firmware. Firmware finds in its header a boot entry, and calls that when the ROM's turn
// comes: it has fw_cfg copy the kernel's parts into memory, by four commands that linux_offer() has filled in, and enters the
// kernel's real-mode setup as the boot protocol wants it. On failure the next boot device has its turn.
//
// Firmware protects the ROM against writing, and a command is answered in place: so they are copied first.
#define FW_CFG_DMA      0x514
#define COMMANDS        0x7000          // below the stack
#define COMMAND_SIZE    16
#define COMMAND_COUNT   4
#define SETUP_SEG       0x1000

        .section .rodata
        .code16
        .globl  linux_rom, linux_rom_pnp, linux_rom_commands, linux_rom_end
        .balign 16
linux_rom:
        .word   0xaa55
        .byte   (linux_rom_end - linux_rom) / 512
        lretw                           // initialisation: nothing to do
        .org    linux_rom + 0x18
        .word   0                       // no PCI data
        .word   linux_rom_pnp - linux_rom

        .org    linux_rom + 0x20
linux_rom_pnp:                          // Plug and Play BIOS specification 1.0A, 3.2
        .ascii  "$PnP"
        .byte   1, 32 / 16
        .word   0                       // no other header
        .byte   0, 0                    // reserved; checksum
        .long   0
        .word   0, name - linux_rom     // manufacturer, product
        .byte   0, 0, 0                 // class
        .byte   0
        .word   0, 0                    // boot connection, disconnect
        .word   boot - linux_rom        // boot entry
        .word   0, 0
name:
        .asciz  "Linux kernel of the command line"

        .balign 16
linux_rom_commands:
        .skip   COMMAND_COUNT * COMMAND_SIZE

boot:
        cli
        cld
        mov     %cs, %ax
        mov     %ax, %ds
        xor     %ax, %ax
        mov     %ax, %es
        mov     %ax, %ss
        mov     $COMMANDS, %sp
        mov     $linux_rom_commands - linux_rom, %si
        mov     $COMMANDS, %di
        mov     $COMMAND_COUNT * COMMAND_SIZE, %cx
        rep movsb
        mov     %ax, %ds
        mov     $COMMANDS, %bx
next:
        mov     $FW_CFG_DMA, %dx
        xor     %eax, %eax
        out     %eax, %dx
        mov     $FW_CFG_DMA + 4, %dx
        movzwl  %bx, %eax
        bswap   %eax
        out     %eax, %dx
wait:
        mov     (%bx), %eax             // big-endian; zero when all went well, 1 when not
        test    %eax, %eax
        jz      done
        cmp     $0x01000000, %eax
        jne     wait
        sti
        int     $0x18
done:
        add     $COMMAND_SIZE, %bx
        cmp     $COMMANDS + COMMAND_COUNT * COMMAND_SIZE, %bx
        jb      next
        mov     $SETUP_SEG, %ax
        mov     %ax, %ds
        mov     %ax, %es
        mov     %ax, %fs
        mov     %ax, %gs
        mov     %ax, %ss
        mov     $0xfff0, %sp
        ljmp    $SETUP_SEG + 0x20, $0

        .org    linux_rom + 512
linux_rom_end:

        .section .note.GNU-stack, "", @progbits
