// Looking at the host: CPUID, /proc, control groups, /dev/kvm.

#include "host/facts.h"

#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "host/linux.h"

#define KVM_VERSION 12 // the only one since 2007; a kernel that says otherwise is not to be used

static void read_cpuid(struct host_facts *f)
{
    u32 r[4], max = __get_cpuid_max(0x80000000, NULL);

    for (u32 i = 0; i < 3 && max >= 0x80000004; i++) {
        __cpuid(0x80000002 + i, r[0], r[1], r[2], r[3]);
        memcpy(f->processor + 16 * i, r, 16);
    }
    if (max >= 0x80000001) {
        __cpuid(0x80000001, r[0], r[1], r[2], r[3]);
        f->svm = r[2] >> 2 & 1;
    }
    if (max >= 0x80000007) {
        __cpuid(0x80000007, r[0], r[1], r[2], r[3]);
        f->invariant_tsc = r[3] >> 8 & 1;
    }
    __cpuid(1, r[0], r[1], r[2], r[3]);
    f->vmx = r[2] >> 5 & 1;
    if (r[2] >> 31) {
        __cpuid(0x40000000, r[0], r[1], r[2], r[3]);
        memcpy(f->hypervisor, &r[1], 12);
        if (!f->hypervisor[0])
            strcpy(f->hypervisor, "unnamed");
    }
}

// The number after `key` in a file of lines, or 0.
static u64 number_in(const char *path, const char *key)
{
    FILE *in = fopen(path, "re");
    char line[256];
    unsigned long long n = 0;

    while (in && fgets(line, sizeof(line), in))
        if (!strncmp(line, key, strlen(key)) && sscanf(line + strlen(key), "%llu", &n) == 1)
            break;
    if (in)
        fclose(in);
    return n;
}

void host_facts(struct host_facts *f)
{
    struct utsname u;
    cpu_set_t set;

    memset(f, 0, sizeof(*f));
    read_cpuid(f);
    if (!uname(&u))
        snprintf(f->kernel, sizeof(f->kernel), "%.60s %.60s", u.sysname, u.release);
    f->cpus = sched_getaffinity(0, sizeof(set), &set) ? 0 : (unsigned)CPU_COUNT(&set);
    f->memory = number_in("/proc/meminfo", "MemTotal:") << 10;
    f->memory_free = number_in("/proc/meminfo", "MemAvailable:") << 10;
    f->memory_limit = number_in("/sys/fs/cgroup/memory.max", "");
    f->tsc_hz = linux_host_tsc_hz(NULL, &f->tsc_from_cpuid);
}

static enum kvm_state cannot_open(int error, char *why, size_t size, const char **remedy)
{
    snprintf(why, size, "/dev/kvm: %s", strerror(error));
    if (error == ENOENT || error == ENODEV || error == ENXIO) {
        *remedy =
            "load the module (modprobe kvm_amd or kvm_intel); in a container or a virtual machine, have whoever runs it "
            "pass the device or switch nested virtualization on";
        return KVM_ABSENT;
    }
    *remedy = error == EACCES || error == EPERM ? "join the group kvm (usermod -aG kvm USER, then log in again)" : NULL;
    return error == EACCES || error == EPERM ? KVM_FORBIDDEN : KVM_BROKEN;
}

enum kvm_state host_kvm_state(char *why, size_t size, const char **remedy)
{
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC), version, vm;
    struct host_facts f = {.svm = false};

    *remedy = NULL;
    if (fd < 0)
        return cannot_open(errno, why, size, remedy);
    version = ioctl(fd, KVM_GET_API_VERSION, 0);
    vm = version == KVM_VERSION ? ioctl(fd, KVM_CREATE_VM, 0) : -1;
    snprintf(why, size, "/dev/kvm opens, API version %d%s%s", version, vm < 0 ? ", but a machine cannot be made: " : "",
             vm < 0 ? strerror(errno) : "");
    if (vm >= 0)
        close(vm);
    close(fd);
    if (vm < 0)
        return KVM_BROKEN;
    read_cpuid(&f);
    if (f.svm || f.vmx)
        return KVM_USABLE;
    snprintf(
        why + strlen(why), size - strlen(why),
        ", but the processor has neither SVM nor VMX: a module without hardware behind it, slow for guests that do "
        "not know it");
    *remedy = "have whoever runs this machine switch nested virtualization on";
    return KVM_SOFT;
}
