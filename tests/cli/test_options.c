// Options of `pogo run`, also from people who want to break the parser.
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cli/options.h"
#include "engine/engines.h"

static struct run_options o;
static struct error err;

// Parse words separated by single spaces.
static int parse(const char *text)
{
    static char copy[1 << 16];
    char *argv[256];
    int argc = 0;

    options_free(&o);
    assert_true(strlen(text) < sizeof(copy));
    strcpy(copy, text);
    for (char *p = strtok(copy, " "); p && argc < 256; p = strtok(NULL, " "))
        argv[argc++] = p;
    memset(&err, 0, sizeof(err));
    return options_parse(&o, argc, argv, &err);
}

static void defaults(void **state)
{
    (void)state;
    assert_int_equal(parse(""), 0);
    assert_int_equal(o.ram, 128 << 20);
    assert_int_equal(o.cpus, 1);
    assert_string_equal(o.cpu, "max");
    assert_string_equal(o.append, "");
    assert_int_equal(o.accel.count, 0);
    assert_int_equal(o.serial_count, 0);
}

static void memory(void **state)
{
    static const struct {
        const char *text;
        u64 bytes;
    } good[] = {{"512", 512ull << 20}, {"512M", 512ull << 20}, {"2g", 2ull << 30},      {"size=1G", 1ull << 30},
                {"4096K", 4ull << 20}, {"1T", 1ull << 40},     {"0x100", 256ull << 20}, {"1048576b", 1 << 20}};
    static const char *const bad[] = {"",   "M", "-1", "1.5G", "1GG", "0x", "99999999999999999999", "17179869184G",
                                      "1 G"};
    char text[64];

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        snprintf(text, sizeof(text), "-m %s", good[i].text);
        assert_int_equal(parse(text), 0);
        assert_int_equal(o.ram, good[i].bytes);
    }
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        char *argv[] = {"-m", (char *)bad[i]};
        options_free(&o);
        assert_int_equal(options_parse(&o, 2, argv, &err), -EINVAL);
    }
}

static void processors(void **state)
{
    static const struct {
        const char *text;
        unsigned n;
    } cases[] = {{"4", 4},
                 {"cpus=3", 3},
                 {"sockets=2,cores=2,threads=2", 8},
                 {"4,sockets=2,cores=2", 4},
                 {"4,maxcpus=4", 4},
                 {"maxcpus=2", 2},
                 {"0", 0},
                 {"65", 0},
                 {"-1", 0},
                 {"", 0},
                 {"2,maxcpus=4", 0},
                 {"sockets=64,cores=64", 0},
                 {"4,cores=3", 0},
                 {"4,cores=0", 0},
                 {"4,frob=1", 0}};
    char text[64];

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        snprintf(text, sizeof(text), "-smp %s", cases[i].text);
        if (cases[i].n) {
            assert_int_equal(parse(text), 0);
            assert_int_equal(o.cpus, cases[i].n);
        } else {
            assert_true(parse(text) < 0);
        }
    }
}

static void engines(void **state)
{
    (void)state;
    assert_int_equal(parse("-accel kvm:bt -machine pc,accel=interp --accel auto"), 0);
    assert_int_equal(o.accel.count, 4);
    assert_string_equal(o.accel.name[0], "kvm");
    assert_string_equal(o.accel.name[1], "bt");
    assert_string_equal(o.accel.name[2], "interp");
    assert_string_equal(o.accel.name[3], "auto");
    assert_true(parse("-accel a:b:c:d:e:f:g:h:i") < 0);
    assert_true(parse("-accel interp,frob=1") < 0);
    assert_int_equal(o.accel.tuning.memory, 0);
    assert_int_equal(parse("-accel cache,tb-size=3"), 0);
    assert_int_equal(o.accel.tuning.memory, 3 << 20);
    assert_true(parse("-accel cache,tb-size=0") < 0);
    assert_true(parse("-accel cache,tb-size=5000") < 0);
    assert_true(parse("-accel bt,tb-size=2001") < 0);
    assert_int_equal(parse("-accel bt,tb-size=2000"), 0);
    assert_true(parse("-accel ,") < 0);
    assert_int_equal(parse("-accel bt,tb-insns=5"), 0);
    assert_int_equal(o.accel.tuning.block, 5);
    assert_true(parse("-accel bt,tb-insns=0") < 0);
    assert_true(parse("-accel bt,tb-insns=65") < 0);
}

static u64 off(const char *engine)
{
    return accel_tuning(&o.accel, engine_find(engine)).off;
}

static void optimisations(void **state)
{
    const struct engine_ops *bt = engine_find("bt");
    char text[64];

    (void)state;
    for (unsigned i = 0; bt->opts[i].name; i++) {
        snprintf(text, sizeof(text), "-accel bt,opt-%s=off", bt->opts[i].name);
        assert_int_equal(parse(text), 0);
        assert_int_equal(off("bt"), 1ull << i);
        assert_int_equal(off("cache"), 0);
    }
    assert_int_equal(parse("-accel kvm:bt,opt-all=off,opt-ret=on"), 0);
    assert_true(off("bt"));
    assert_int_equal(parse("-accel auto,opt-ret=off"), 0);
    assert_true(off("bt"));
    assert_int_equal(parse("-accel bt,opt-ret=off -accel bt,opt-ret=on"), 0);
    assert_int_equal(off("bt"), 0);
    assert_true(parse("-accel bt,opt-frob=off") < 0);
    assert_true(parse("-accel bt,opt-ret=7") < 0);
    assert_true(parse("-accel interp,opt-ret=off") < 0);
}

static void lines(void **state)
{
    (void)state;
    assert_int_equal(parse("-serial mon:stdio -serial unix:/a,,b,server=on,wait=off -serial tcp:[::1]:99 -serial none"),
                     0);
    assert_int_equal(o.serial_count, 4);
    assert_int_equal(o.serial[0].spec.kind, CHARDEV_STDIO);
    assert_int_equal(o.serial[0].spec.keys, CHARDEV_KEYS_ON);
    assert_string_equal(o.serial[1].spec.path, "/a,b");
    assert_true(o.serial[1].spec.server);
    assert_false(o.serial[1].spec.wait);
    assert_string_equal(o.serial[2].spec.host, "[::1]");
    assert_string_equal(o.serial[2].spec.port, "99");
    assert_false(o.serial[2].spec.server);
    assert_int_equal(o.serial[3].how, CHAR_NONE);
    assert_int_equal(parse("-serial file:/a,b=c -monitor chardev:m -debugcon null"), 0);
    assert_string_equal(o.serial[0].spec.path, "/a,b=c"); // the rest is the path
    assert_int_equal(o.monitor[0].how, CHAR_ID);
    assert_int_equal(parse("-chardev socket,id=s,port=1,server,nowait -chardev stdio,id=t,mux=on,signal=off -mon s"),
                     0);
    assert_int_equal(o.chardev[0].kind, CHARDEV_TCP);
    assert_false(o.chardev[0].wait);
    assert_true(o.chardev[1].mux);
    assert_string_equal(o.monitor[0].spec.id, "s");
    static const char *const bad[] = {"mon:none",
                                      "mon:chardev:a",
                                      "file:",
                                      "unix:",
                                      "unix:,server",
                                      "tcp:",
                                      "tcp:1",
                                      "tcp::",
                                      "chardev:",
                                      "vc",
                                      "unix:/a,wait=maybe",
                                      "tcp:a:1,x=y",
                                      "unix:/a,,server=",
                                      "mon:mon:pty"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        char text[64];
        snprintf(text, sizeof(text), "-serial %s", bad[i]);
        bool fine = !strcmp(bad[i], "unix:/a,,server="); // a path with a comma
        assert_int_equal(parse(text) == 0, fine);
    }
}

static void devices(void **state)
{
    (void)state;
    assert_int_equal(parse("-device isa-debug-exit -device isa-debug-exit,iobase=0xf4,iosize=4,id=x"), 0);
    assert_int_equal(device_number(&o.device[0], "iobase"), 0x501);
    assert_int_equal(device_number(&o.device[0], "iosize"), 2);
    assert_false(device_was_set(&o.device[0], "iobase"));
    assert_int_equal(device_number(&o.device[1], "iobase"), 0xf4);
    assert_string_equal(o.device[1].id, "x");
    assert_int_equal(parse("-device virtio-blk-pci,drive=d,disable-modern=on,vectors=0"), 0);
    assert_string_equal(device_text(&o.device[0], "drive"), "d");
    assert_string_equal(device_text(&o.device[0], "disable-legacy"), "auto");
    assert_null(device_text(&o.device[0], "serial"));
    static const char *const bad[] = {"",
                                      ",",
                                      "foo",
                                      "isa-debug-exi",
                                      "isa-debug-exit,",
                                      "isa-debug-exit,iobase",
                                      "isa-debug-exit,iobase=",
                                      "isa-debug-exit,iobase=-1",
                                      "isa-debug-exit,iosize=9",
                                      "isa-debug-exit,iosize=0",
                                      "isa-debug-exit,=1",
                                      "isa-debug-exit,iobase==1",
                                      "virtio-blk-pci,disable-modern=auto"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        char *argv[] = {"-device", (char *)bad[i]};
        options_free(&o);
        assert_int_equal(options_parse(&o, 2, argv, &err), -EINVAL);
        assert_non_null(strstr(err.text, "-device"));
    }
}

// Every table's properties have names that the accessors find, and defaults that parse.
static void device_tables(void **state)
{
    (void)state;
    for (int i = 0; i < DEVICE_KIND_COUNT; i++) {
        const struct device_type *t = device_type((enum device_kind)i);
        struct device_option d;
        struct text_pool pool = {NULL};

        assert_non_null(t->help);
        assert_int_equal(device_parse(&d, &pool, t->name, &err), 0);
        assert_int_equal(d.kind, i);
        for (unsigned p = 0; p < DEVICE_MAX_PROPS && t->prop[p].name; p++)
            if (t->prop[p].def)
                assert_string_equal(device_text(&d, t->prop[p].name), t->prop[p].def);
        text_free(&pool);
    }
}

static void drives(void **state)
{
    (void)state;
    assert_int_equal(
        parse(
            "-drive file=a,,b,if=virtio,cache=unsafe,readonly=on -drive if=none,id=n,file=c,snapshot=on,discard=unmap"),
        0);
    assert_string_equal(o.drive[0].file, "a,b");
    assert_true(o.drive[0].attach && o.drive[0].no_flush && o.drive[0].readonly);
    assert_true(!o.drive[1].attach && o.drive[1].snapshot && o.drive[1].unmap);
    assert_int_equal(
        parse("-blockdev raw,node-name=r,file.driver=file,file.filename=x -blockdev driver=raw,file=r,node-name=s"), 0);
    assert_string_equal(o.drive[0].file, "x");
    assert_string_equal(o.drive[1].node, "r");
    assert_true(parse("-blockdev {\"driver\":\"raw\"}") < 0);
    assert_true(parse("-blockdev qcow2,node-name=x,file=y") < 0);
    assert_true(parse("-blockdev file,node-name=x") < 0);
    assert_true(parse("-drive file=") < 0);
}

static void times(void **state)
{
    (void)state;
    assert_int_equal(parse("-icount 3,align=off"), 0);
    assert_true(o.icount && o.icount_sleep && o.icount_shift == 3);
    i64 fixed = o.utc_s;
    assert_true(fixed > 0);
    assert_int_equal(parse("-icount shift=10,sleep=off -rtc base=utc"), 0);
    assert_true(o.icount && !o.icount_sleep && o.icount_shift == 10 && o.utc_s != fixed);
    assert_true(parse("-icount auto") < 0);
    assert_true(parse("-icount shift=11") < 0);
    assert_true(parse("-icount sleep=off") < 0);
    assert_true(parse("-icount 1,align=on") < 0);
    assert_true(parse("-icount 1,rr=record") < 0);
    assert_int_equal(parse("-rtc base=1980-01-01"), 0);
    assert_true(!o.icount && o.rtc_date && o.utc_s == 315532800);
    assert_true(o.rtc_shift_s < -40ll * 365 * 86400);
    assert_int_equal(parse("-rtc base=2100-06-17T16:01:21,clock=vm,driftfix=slew"), 0);
    assert_true(o.rtc_shift_s > 0 && o.rtc_slew);
    assert_int_equal(parse("-rtc base=localtime,clock=host"), 0);
    assert_true(o.rtc_shift_s >= -86400 && o.rtc_shift_s <= 86400 && !o.rtc_slew);
    assert_true(parse("-rtc base=2100-06-17T16:01") < 0);
    assert_true(parse("-rtc base=2100-13-17") < 0);
    assert_true(parse("-rtc clock=sun") < 0);
}

// More of everything than there is room for.
static void too_many(void **state)
{
    static const char *const options[] = {"-serial null",       "-monitor null",       "-chardev null,id=%u",
                                          "-device pc-testdev", "-drive file=x,id=%u", "-object rng-builtin,id=x"};
    static char text[8192];

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(options); i++) {
        size_t len = 0;
        int ret = 0;
        for (unsigned n = 0; n < 100 && !ret; n++) {
            char one[64];
            // A format from the table above.
            const char *percent = strstr(options[i], "%u");
            int keep = percent ? (int)(percent - options[i]) : (int)strlen(options[i]);
            snprintf(one, sizeof(one), "%.*s", keep, options[i]);
            if (percent)
                snprintf(one + keep, sizeof(one) - (size_t)keep, "%u", n);
            len += (size_t)snprintf(text + len, sizeof(text) - len, "%s ", one);
            ret = parse(text);
        }
        assert_int_equal(ret, -E2BIG);
    }
    for (unsigned n = 0; n < 40; n++)
        strcpy(text + 5 * n + (n ? 8 : 0), n ? ",a=b" : "-device x,a=b");
    assert_true(parse(text) < 0);
}

static void strange_strings(void **state)
{
    static char longer[40000];
    static const char *const options[] = {"-device",  "-drive", "-blockdev", "-chardev", "-serial",
                                          "-object",  "-rtc",   "-boot",     "-name",    "-smp",
                                          "-machine", "-accel", "-mon",      "-d",       "-m"};
    static const char *const parts[] = {"isa-debug-exit,iobase=",
                                        "file=",
                                        "file,filename=",
                                        "file,id=a,path=",
                                        "file:",
                                        "rng-random,id=",
                                        "base=",
                                        "order=",
                                        "guest=",
                                        "cpus=",
                                        "type=",
                                        "accel=",
                                        "chardev=",
                                        "",
                                        ""};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(options); i++)
        for (unsigned kind = 0; kind < 6; kind++) {
            char *argv[] = {(char *)options[i], longer};
            static const char fill[] = "x,=%\xff:";
            strcpy(longer, parts[i]);
            size_t at = strlen(longer);
            memset(longer + at, fill[kind], sizeof(longer) - at - 1);
            options_free(&o);
            err.text[0] = 0;
            int ret = options_parse(&o, 2, argv, &err);
            assert_true(ret == 0 || (ret < 0 && err.text[0]));
        }
}

static int cleanup(void **state)
{
    (void)state;
    options_free(&o);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults), cmocka_unit_test(memory),        cmocka_unit_test(processors),
        cmocka_unit_test(engines),  cmocka_unit_test(optimisations), cmocka_unit_test(lines),
        cmocka_unit_test(devices),  cmocka_unit_test(drives),        cmocka_unit_test(device_tables),
        cmocka_unit_test(times),    cmocka_unit_test(too_many),      cmocka_unit_test(strange_strings),
    };

    return cmocka_run_group_tests(tests, NULL, cleanup);
}
