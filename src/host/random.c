// getrandom().
#include "host/random.h"

#include <errno.h>
#include <sys/random.h>

u64 host_random(void *source, void *buf, u64 len)
{
    u64 done = 0;

    (void)source;
    while (done < len) {
        ssize_t n = getrandom((u8 *)buf + done, len - done, GRND_NONBLOCK);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        done += (u64)n;
    }
    return done;
}
