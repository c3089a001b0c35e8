// Guest code for the golden tests of the translator: snippet GROUP/NAME [bits] [offset in the page] [count: blocks count instructions]
// [user: at CPL 3]. Each ends with `end`, and is translated as one block. What becomes of it stands in golden/GROUP.txt; `make golden`
// writes it anew.
        .intel_syntax noprefix

        .macro snippet name:req, bits=64, off=0x100, count=0, user=0
        .pushsection .rodata
9990:   .string "\name"
        .popsection
        .pushsection .data.rel.ro, "aw"
        .quad 9990b, 9991f, 9992f
        .short \bits, \off, \count, \user
        .popsection
        .code\bits
9991:
        .endm

        .macro end
9992:
        .code64
        .endm

        .section .data.rel.ro, "aw"
        .balign 8
        .globl snippets
snippets:
        .section .rodata.snippets, "a"

// --- registers

        snippet alu/registers
        mov     eax, ebx
        add     rax, rcx
        xor     edx, edx
        imul    rsi, rdi, 100
        not     r9
        lea     rcx, [rax+rbx*4+8]
        end

        snippet alu/constants
        mov     eax, 1
        mov     rbx, -1
        movabs  rcx, 0x123456789abcdef0
        add     rax, 0x7fffffff
        and     al, 15
        end

        snippet alu/sizes
        mov     al, bl
        mov     ax, bx
        mov     eax, ebx
        mov     rax, rbx
        movzx   eax, bl
        movsx   rax, cx
        movsxd  rax, edx
        mov     sil, dil
        end

        snippet alu/high-bytes
        mov     ah, bl
        mov     ch, dh
        add     ah, 1
        movzx   eax, ah
        xchg    al, ah
        end

        snippet alu/high-byte-memory
        mov     ah, [rbx]
        mov     [rbx], dh
        end

        snippet alu/context-registers
        mov     r10, rax
        mov     rbx, r11
        add     r15, r10
        mov     r10d, r11d
        mov     r10b, al
        inc     r15
        end

        snippet alu/stack-pointer
        mov     rbp, rsp
        sub     rsp, 0x28
        and     rsp, -16
        lea     rax, [rsp+0x10]
        end

        snippet alu/shifts
        shl     eax, 4
        sar     rdx, 63
        ror     cl, 1
        shr     rbx, cl
        shld    rax, rdx, 5
        rcl     eax, 1
        end

        snippet alu/division
        xor     edx, edx
        div     rcx
        cdq
        idiv    ebx
        div     bl
        end

        snippet alu/conditions
        cmp     eax, ebx
        setl    al
        cmovne  rcx, rdx
        cmovb   r10, rax
        sete    r10b
        end

        snippet alu/carry-chain
        add     rax, rbx
        adc     rcx, rdx
        adc     rsi, 0
        sbb     eax, eax
        end

        snippet alu/bits
        bsf     eax, ebx
        tzcnt   rcx, rdx
        popcnt  eax, ecx
        bt      rax, 5
        bswap   rdx
        andn    eax, ebx, ecx
        shlx    rax, rbx, rcx
        rorx    r10, rax, 3
        end

        snippet alu/counting, count=1
2:      add     eax, ebx
        jz      1f
        inc     ecx
        jnz     2b
1:      ret
        end

// --- memory

        snippet memory/rip-far
        lea     rax, [rip + 0x7fffffff]
        mov     rcx, [rip + 0x7fffffff]
        end

        snippet memory/modes
        mov     eax, [rbx]
        mov     eax, [rbx+8]
        mov     eax, [rbx+0x12345]
        mov     eax, [rbx+rcx]
        mov     eax, [rbx+rcx*8-4]
        mov     eax, [rcx*8+0x100]
        mov     eax, [0x1000]
        mov     eax, [rip+0x40]
        mov     eax, [rsp]
        mov     eax, [rsp+rax*2+16]
        mov     eax, [ebx+4]
        end

        snippet memory/at-cpl-3, user=1
        mov     rax, [rbx+8]
        mov     rcx, [rax+rdx*4]
        cmp     rcx, [rbx+16]
        mov     [rbx+24], rcx
        end

        snippet memory/context-registers
        mov     rax, [r10]
        mov     rax, [rbx+r11*4]
        mov     rax, [r10+r11+8]
        mov     r10, [rbx]
        mov     [r15+8], r15
        add     r11, [r10]
        end

        snippet memory/stores
        mov     [rbx], eax
        mov     byte ptr [rbx+1], 5
        mov     qword ptr [rbx+8], -1
        mov     [rbx+2], ax
        mov     word ptr [rsp+8], 0x1234
        end

        snippet memory/modify
        add     [rbx], eax
        inc     dword ptr [rbx]
        or      byte ptr [rbx], 1
        neg     qword ptr [rbx]
        cmp     dword ptr [rbx], 0
        test    byte ptr [rbx], 0x80
        end

        snippet memory/locked
        lock add dword ptr [rbx], 1
        lock cmpxchg [rdi], rcx
        lock xadd [rdi], eax
        xchg    [rdi], eax
        lock bts dword ptr [rdi], 3
        lock cmpxchg16b [rdi]
        end

        snippet memory/segments
        mov     rax, fs:[0]
        mov     rax, gs:[rbx]
        mov     fs:[0x28], rcx
        end

        snippet memory/structure
        mov     rax, [rdi]
        mov     rbx, [rdi+8]
        mov     ecx, [rdi+16]
        mov     [rdi+24], rdx
        mov     [rdi+32], rax
        end

        // What is added to a linear address does for accesses off one register that the host has, and for groups of them.
        snippet memory/by-addend
        mov     rax, [r13]
        mov     byte ptr [rbp+0x12], 5
        mov     [rsi-8], sil
        mov     [rsi], r15
        mov     r10, rdi
        mov     rcx, [rdi+8]
        add     [r10+16], ecx
        mov     ah, [rdi+12]
        movsx   edx, byte ptr [r12+1]
        lea     rdx, [r12+8]
        mov     r12, [rdx-4]
        end

        snippet memory/moffs
        movabs  eax, [0x123456789abcdef0]
        movabs  [0x123456789abcdef0], al
        end

        snippet memory/strings
        movsq
        stosb
        lodsd
        rep movsb
        rep stosq
        repne scasb
        end

        snippet memory/page-end, off=0xffc
        mov     eax, [rbx+rcx*4+0x12345678]
        end

// --- flags that live across what destroys them

        snippet flags/across-load
        cmp     eax, ebx
        mov     ecx, [rdx]
        jz      1f
        nop
1:      nop
        end

        snippet flags/dead
        add     eax, ebx
        mov     ecx, [rdx]
        sub     ecx, 1
        mov     [rdx], ecx
        xor     eax, eax
        end

        snippet flags/partly
        add     eax, ebx
        mov     ecx, [rdx]
        inc     ecx
        mov     [rdx], ecx
        adc     eax, 0
        end

        snippet flags/compare-memory
        cmp     dword ptr [rdi], 5
        jne     1f
        nop
1:      nop
        end

        snippet flags/kept
        cmp     eax, ebx
        mov     eax, [rdx]
        mov     r10, [rsi]
        je      1f
        nop
1:      nop
        end

        snippet flags/kept-memory
        cmp     byte ptr [rdi], 5
        mov     ecx, [rdx]
        ja      1f
        add     [rdi], rcx
        mov     edx, [rsi]
        xor     eax, eax
1:      nop
        end

        snippet flags/kept-shifted
        shl     eax, 3
        mov     ecx, [rdx]
        jc      1f
        nop
1:      nop
        end

        snippet flags/kept-for-nothing
        add     rsp, 8
        pop     rbx
        ret
        end

        snippet flags/byte
        cmp     sil, al
        mov     ecx, [rdx]
        setl    bl
        cmp     r10w, 0x1234
        mov     r10, [rdx]
        jb      1f
        nop
1:      nop
        end

        snippet flags/carry-apart
        nop
1:      dec     eax
        movups  xmm1, [rcx]
        lea     rcx, [rcx+16]
        jnz     1b
        adc     edx, edx
        end

        snippet flags/one-of-the-slot
        bt      eax, 3
        mov     ecx, [rdx]
        setz    bl
        cmovbe  ecx, ebx
        jnp     1f
        adc     edx, 0
1:      nop
        end

        snippet flags/variant
        mov     ecx, [rdx]
        mov     ebx, [rsi]
        je      1f
        add     ecx, ebx
1:      nop
        end

        snippet flags/pushed
        cmp     eax, ebx
        pushfq
        push    rax
        popfq
        end

        snippet flags/lahf
        lahf
        clc
        cmc
        sahf
        end

        snippet flags/variable-shift
        cmp     eax, ebx
        shl     edx, cl
        setz    al
        mov     [rdi], al
        end

// --- the stack

        snippet stack/prologue
        push    rbp
        mov     rbp, rsp
        push    r12
        push    rbx
        sub     rsp, 0x20
        mov     [rbp-0x18], rdi
        end

        snippet stack/epilogue
        add     rsp, 0x20
        pop     rbx
        pop     r12
        leave
        ret
        end

        snippet stack/operands
        push    5
        push    0x12345678
        push    qword ptr [rax]
        push    r10
        pop     r10
        pop     qword ptr [rax]
        push    rsp
        pop     rsp
        end

        snippet stack/sizes
        push    ax
        pop     bx
        end

// --- control flow

        snippet flow/call-at-cpl-3, user=1
        call    . + 0x2000
        end

        snippet flow/loop-back
1:      add     eax, [rdi]
        add     rdi, 4
        dec     ecx
        jnz     1b
        end

        snippet flow/forward
        test    eax, eax
        jz      1f
        js      1f
        mov     ebx, 1
1:      mov     ecx, 2
        end

        snippet flow/jump
        jmp     . + 0x20
        end

        snippet flow/follow
        mov     rax, [rbx]
        jmp     1f
        ud2
1:      mov     rcx, [rbx+8]
        end

        snippet flow/jump-back
        nop
        jmp     . - 0x20
        end

        snippet flow/other-page
        cmp     eax, 1
        je      . + 0x2000
        jmp     . - 0x3000
        end

        snippet flow/indirect
        jmp     rax
        end

        snippet flow/indirect-memory
        jmp     qword ptr [rbx+rcx*8]
        end

        snippet flow/indirect-context
        jmp     r11
        end

        snippet flow/call
        call    . + 0x40
        end

        snippet flow/call-other-page
        call    . + 0x4000
        end

        snippet flow/call-indirect
        call    rax
        end

        snippet flow/call-memory
        call    qword ptr [rip+0x100]
        end

        snippet flow/return
        ret
        end

        snippet flow/return-pop
        ret     0x1000
        end

        snippet flow/loop-instruction
1:      nop
        loop    1b
        end

        snippet flow/page-end, off=0xfff
        nop
        end

// --- 32-bit code

        snippet code32/alu, bits=32
        inc     eax
        dec     ecx
        mov     esp, ebp
        add     ah, ch
        xor     edx, edx
        cmp     eax, 5
        jl      1f
        nop
1:      nop
        end

        snippet code32/memory, bits=32
        mov     eax, [ebx+esi*4+8]
        mov     eax, [0x12345678]
        mov     [ebp-4], eax
        mov     eax, gs:[0x14]
        mov     eax, cs:[ebx]
        mov     ax, [bx+si]
        movzx   eax, byte ptr [esp+8]
        end

        snippet code32/stack, bits=32
        push    ebp
        mov     ebp, esp
        push    5
        push    dword ptr [ebp+8]
        pop     eax
        leave
        ret
        end

        snippet code32/call, bits=32
        call    . + 0x100
        end

        snippet code32/call-indirect, bits=32
        call    dword ptr [ebx+8]
        end

        snippet code32/all-registers, bits=32
        pusha
        popa
        end

// --- vectors and the x87

        snippet vector/moves
        movaps  xmm0, xmm1
        movups  xmm2, [rdi]
        movdqa  [rsi], xmm3
        movq    rax, xmm0
        movd    xmm1, r10d
        movss   xmm0, [rbx]
        end

        snippet vector/arithmetic
        addsd   xmm0, xmm1
        mulps   xmm0, [rdi]
        paddd   xmm3, xmm4
        pshufd  xmm1, xmm2, 0x1b
        cvtsi2sd xmm0, rax
        cvttsd2si eax, xmm0
        ucomisd xmm0, xmm1
        end

        snippet vector/avx
        vaddps  ymm0, ymm1, ymm2
        vmovdqu ymm3, [rdi]
        vpxor   xmm1, xmm2, [rsi]
        vzeroupper
        end

        snippet vector/by-addend
        vmovaps ymm9, [r13+0x28]
        vmovaps [r13+0x48], ymm9
        pxor    xmm8, [rbp]
        vaddsd  xmm1, xmm2, [rsp+8]
        vcvtsi2sd xmm1, xmm2, qword ptr [r8]
        end

        snippet vector/x87
        fld     qword ptr [rdi]
        fadd    st, st(1)
        fstp    dword ptr [rsi]
        end

        snippet vector/crypto
        sha256rnds2 xmm1, xmm2, xmm0
        aesenc  xmm0, xmm1
        pclmulqdq xmm0, xmm1, 0
        crc32   rax, rbx
        end

// --- the system

        snippet system/time-and-features
        rdtsc
        cpuid
        end

        snippet system/interrupt-flag
        cli
        nop
        sti
        end

        snippet system/ports
        in      al, dx
        out     0x80, al
        end

        snippet system/entry
        syscall
        end

        snippet system/exit
        sysretq
        end

        snippet system/iret
        iretq
        end

        snippet system/registers
        swapgs
        mov     rax, cr0
        mov     cr8, rax
        mov     ax, ds
        rdgsbase rax
        end

        snippet system/cr3
        mov     cr3, rax
        end

        snippet system/msr
        rdmsr
        wrmsr
        end

        snippet system/int
        int3
        end

        snippet system/hlt
        hlt
        end

        snippet system/undefined
        ud2
        end

        .section .data.rel.ro, "aw"
        .quad   0
        .section .note.GNU-stack, "", @progbits
