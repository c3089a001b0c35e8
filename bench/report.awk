# Tables and JSON from what bench/bt.sh has measured. Usage: awk [-v clock=cpu] -v json=FILE -f bench/report.awk bench/bt.goals RAW
#
# Lines of RAW:
#
#   machine TEXT                       what it was measured on
#   nano NAME ENV MINIMUM MEDIAN P95   cycles per operation; a - where ENV does not have it
#   load GROUP NAME ENV SECONDS CPU    one run: the time it took, and processor time (used with clock=cpu)
#   sum NAME ENV SUM                   of what a load printed
#   failed ENV TEXT                    what went wrong
#
# ENV is native, tcg or an engine. Of several runs the median counts.

function median(list, v, n, i, k, x) {
    n = split(list, v, " ")
    for (i = 2; i <= n; i++) {
        x = v[i] + 0
        for (k = i - 1; k >= 1 && v[k] + 0 > x; k--)
            v[k + 1] = v[k]
        v[k + 1] = x
    }
    return n == 0 ? "" : n % 2 ? v[(n + 1) / 2] + 0 : (v[n / 2] + v[n / 2 + 1]) / 2
}

function ratio(a, b) {
    return a == "" || b == "" || b + 0 == 0 ? "" : a / b
}

function show(format, v) {
    return v == "" ? "-" : sprintf(format, v)
}

# A row of a Markdown table that reads well as text, too.
function row(first, cells, n, i, line) {
    line = sprintf("| %-20s |", first)
    for (i = 1; i <= n; i++)
        line = line sprintf(" %*s |", width[i], cells[i])
    print line
}

function heading(first, cells, n, i, line) {
    for (i = 1; i <= n; i++)
        width[i] = length(cells[i]) > 8 ? length(cells[i]) : 8
    row(first, cells, n)
    line = "|----------------------|"
    for (i = 1; i <= n; i++)
        line = line substr("---------------------------------", 1, width[i] + 1) ":|"
    print line
}

function verdict(engine, value, limit, most) {
    if (engine != "bt" || value == "" || limit == "")
        return ""
    return (most ? value <= limit : value >= limit) ? "met" : "missed"
}

function remember(env) {
    if (env in known)
        return
    known[env] = 1
    if (env != "native" && env != "tcg")
        engine[++engines] = env
}

/^#/ || NF == 0 { next }

FILENAME ~ /goals$/ { goal[$1, $2, $3] = $4; next }

$1 == "machine" { machine = substr($0, 9); next }
$1 == "failed" { failure[++failures] = substr($0, 8); next }

$1 == "nano" {
    remember($3)
    if (!($2 in is_op)) {
        is_op[$2] = 1
        op[++ops] = $2
    }
    if ($4 != "-") {
        least[$2, $3] = least[$2, $3] " " $4
        middle[$2, $3] = middle[$2, $3] " " $5
        most[$2, $3] = most[$2, $3] " " $6
    }
    next
}

$1 == "load" {
    remember($4)
    if (!($2 in members)) {
        group[++groups] = $2
        members[$2] = ""
    }
    if (!($3 in is_load)) {
        is_load[$3] = 1
        members[$2] = members[$2] " " $3
    }
    seconds[$3, $4] = seconds[$3, $4] " " (clock == "cpu" ? $6 : $5)
    next
}

$1 == "sum" {
    if (!($2 in sum)) {
        sum[$2] = $4
        sum_from[$2] = $3
    } else if (sum[$2] != $4)
        failure[++failures] = $3 " " $2 ": prints other things than in " sum_from[$2]
}

function nano_goal(name) {
    if (("nano", name, "cycles") in goal)
        return "<= " goal["nano", name, "cycles"]
    if (("nano", name, "native") in goal)
        return "<= " goal["nano", name, "native"] " x native"
    return ""
}

function nano_verdict(name, value) {
    if (("nano", name, "cycles") in goal)
        return verdict("bt", value, goal["nano", name, "cycles"], 1)
    if (("nano", name, "native") in goal)
        return verdict("bt", ratio(value, median(middle[name, "native"])), goal["nano", name, "native"], 1)
    return ""
}

function nano_table(i, k, n, c, v) {
    print "Cycles per operation, median (and 95th percentile):\n"
    n = 0
    c[++n] = "native"
    c[++n] = "tcg"
    for (k = 1; k <= engines; k++)
        c[++n] = engine[k]
    c[++n] = "goal for bt"
    if ("bt" in known)
        c[++n] = "reached"
    for (i = 1; i <= n; i++)
        c[i] = sprintf("%16s", c[i])
    heading("operation", c, n)
    for (i = 1; i <= ops; i++) {
        n = 0
        c[++n] = nano_cell(op[i], "native")
        c[++n] = nano_cell(op[i], "tcg")
        for (k = 1; k <= engines; k++)
            c[++n] = nano_cell(op[i], engine[k])
        c[++n] = nano_goal(op[i])
        if ("bt" in known)
            c[++n] = nano_verdict(op[i], median(middle[op[i], "bt"]))
        row(op[i], c, n)
    }
    print ""
}

function nano_cell(name, env, v) {
    v = median(middle[name, env])
    return v == "" ? "-" : sprintf(v < 10000 ? "%.1f (%.1f)" : "%.0f (%.0f)", v, median(most[name, env]))
}

function load_heading(what, i, k, n, c) {
    c[++n] = "native s"
    c[++n] = "tcg s"
    c[++n] = "tcg/native"
    for (k = 1; k <= engines; k++) {
        c[++n] = engine[k] " s"
        c[++n] = engine[k] "/native"
        c[++n] = "tcg/" engine[k]
    }
    heading(what, c, n)
}

function load_row(name, k, n, c, native, tcg, own) {
    native = median(seconds[name, "native"])
    tcg = median(seconds[name, "tcg"])
    c[++n] = show("%.3f", native)
    c[++n] = show("%.2f", tcg)
    c[++n] = show("%.2f", ratio(tcg, native))
    for (k = 1; k <= engines; k++) {
        own = median(seconds[name, engine[k]])
        c[++n] = show("%.2f", own)
        c[++n] = show("%.2f", ratio(own, native))
        c[++n] = show("%.2f", ratio(tcg, own))
    }
    row(name, c, n)
}

# Geometric mean over a group's loads of one environment's seconds in terms of another's; empty when one is missing.
function mean(which, a, b, v, n, i, x, total) {
    n = split(members[which], v, " ")
    for (i = 1; i <= n; i++) {
        x = ratio(median(seconds[v[i], a]), median(seconds[v[i], b]))
        if (x == "")
            return ""
        total += log(x)
    }
    return n ? exp(total / n) : ""
}

function mean_row(which, k, n, c) {
    c[++n] = ""
    c[++n] = ""
    c[++n] = show("%.2f", mean(which, "tcg", "native"))
    for (k = 1; k <= engines; k++) {
        c[++n] = ""
        c[++n] = show("%.2f", mean(which, engine[k], "native"))
        c[++n] = show("%.2f", mean(which, "tcg", engine[k]))
    }
    row("geometric mean", c, n)
}

function goal_line(which, text, met) {
    if (("load", which, "native") in goal) {
        met = verdict("bt", mean(which, "bt", "native"), goal["load", which, "native"], 1)
        text = "at most " goal["load", which, "native"] " x native" (met == "" ? "" : " (" met ")") ", "
    }
    if (("load", which, "tcg") in goal) {
        met = verdict("bt", mean(which, "tcg", "bt"), goal["load", which, "tcg"], 0)
        text = text "at least " goal["load", which, "tcg"] " x faster than tcg" (met == "" ? "" : " (" met ")")
    }
    if (text != "")
        print "Goal for bt: " text "\n"
}

function load_table(which, v, n, i) {
    load_heading(which)
    n = split(members[which], v, " ")
    for (i = 1; i <= n; i++)
        load_row(v[i])
    if (n > 1)
        mean_row(which)
    print ""
    goal_line(which)
}

function quoted(s) {
    gsub(/[\\"]/, "\\\\&", s)
    return "\"" s "\""
}

function json_environments(kind, name, text, env, list) {
    for (env in known) {
        list = kind == "nano" ? middle[name, env] : seconds[name, env]
        if (list == "")
            continue
        text = text (text == "" ? "" : ", ") quoted(env) ": "
        if (kind == "nano")
            text = text sprintf("{\"minimum\": %s, \"median\": %s, \"p95\": %s}", median(least[name, env]), median(list), median(most[name, env]))
        else {
            sub(/^ /, "", list)
            gsub(/ /, ", ", list)
            text = text sprintf("{\"median\": %s, \"runs\": [%s]}", median(seconds[name, env]), list)
        }
    }
    return "{" text "}"
}

function comma(i) {
    return i > 1 ? "," : ""
}

function write_json(i, k, n, v, separator) {
    printf "{\n  \"machine\": %s,\n  \"cycles\": {", quoted(machine) > json
    for (i = 1; i <= ops; i++)
        printf "%s\n    %s: %s", comma(i), quoted(op[i]), json_environments("nano", op[i]) > json
    printf "\n  },\n  \"seconds\": {" > json
    for (i = 1; i <= groups; i++) {
        printf "%s\n    %s: {", comma(i), quoted(group[i]) > json
        n = split(members[group[i]], v, " ")
        for (k = 1; k <= n; k++)
            printf "%s\n      %s: %s", comma(k), quoted(v[k]), json_environments("load", v[k]) > json
        printf "\n    }" > json
    }
    printf "\n  },\n  \"failures\": [" > json
    for (i = 1; i <= failures; i++)
        printf "%s\n    %s", comma(i), quoted(failure[i]) > json
    printf "%s]\n}\n", (failures ? "\n  " : "") > json
    close(json)
}

END {
    if (clock == "cpu")
        machine = machine ", seconds are processor time"
    print machine "\n"
    if (ops)
        nano_table()
    for (g = 1; g <= groups; g++)
        load_table(group[g])
    for (g = 1; g <= failures; g++)
        print "FAILED: " failure[g]
    if (json != "")
        write_json()
    exit failures > 0
}
