#!/bin/bash
# What translated code calls while the guest's vector state is in the host's registers must use none of these: follow the calls from
# service() and mmu_fill() in the finished program, down to what runs only after the state was set aside. Usage:
# tests/bt/vector-free.sh POGO
set -u
pogo=$1
objdump -d --no-show-raw-insn "$pogo" | awk '
    function hex(s,    v) {
        sub(/^0x/, "", s)
        for (v = 0; s != ""; s = substr(s, 2)) v = 16 * v + index("123456789abcdef", substr(s, 1, 1))
        return v
    }
    # Functions before whose calls the state is set aside (src/engine/bt/vecstate.c, before_device in src/core/mmu.c).
    BEGIN { split("interp_step interp_call interp_ready translate keeper_drop mem_cpu_load mem_cpu_store renew_keys msr_read msr_write cpuid_guest adapt_specialise isa_decode simd_store_compact simd_load_compact", a); for (i in a) aside[a[i]] = 1 }
    /^[0-9a-f]+ <.*>:$/ {
        fn = hex($1); name[fn] = substr($2, 2, length($2) - 3); start[name[fn]] = fn
        next
    }
    /%[xyz]?mm[0-9]|\t(v?ldmxcsr|f[a-z0-9]+) / { vector[fn] = $0 }
    match($0, /\t(call|j[a-z]+) +[0-9a-f]+ <[^>]+>/) { # the target as the start of the function that it is in
        n = split(substr($0, RSTART, RLENGTH - 1), p, /[ <+]+/)
        if (n < 4) p[4] = ""
        to = hex(p[2]) - hex(p[4])
        if (to != fn) calls[fn] = calls[fn] " " to
    }
    function visit(f, path,    i, n, to) {
        if (f in seen || name[f] in aside) return
        seen[f] = 1; count++
        path = path " " name[f]
        if (!(f in name) || name[f] ~ /@plt$/) { print "FAIL outside:" path; bad++; return }
        if (f in vector) { print "FAIL vector registers:" path ":" vector[f]; bad++ }
        n = split(calls[f], to, " ")
        for (i = 1; i <= n; i++) visit(to[i] + 0, path)
    }
    END {
        visit(start["service"], ""); visit(start["service_miss"], ""); visit(start["service_port"], ""); visit(start["service_light"], ""); visit(start["adapt_serve"], ""); visit(start["mmu_fill"], "")
        if (count < 10) { print "FAIL only " count " functions found"; bad++ }
        if (!bad) print count " functions use no vector register"
        print (bad ? 0 : 1) " passed, " bad + 0 " failed"
        exit bad > 0
    }'
