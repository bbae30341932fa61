#include "engine.h"

int engine_gettimeofday(struct timeval *now) {
    uint64_t us = engine_microseconds();
    now->tv_sec = (time_t)(us / 1000000);
    now->tv_usec = (suseconds_t)(us % 1000000);
    return 0;
}

int engine_clock_gettime(struct timespec *now) {
    uint64_t us = engine_microseconds();
    now->tv_sec = (time_t)(us / 1000000);
    now->tv_nsec = (long)(us % 1000000 * 1000);
    return 0;
}

// What the C library would import from WASI, by the names that it has for the
// imports: defined here, they are no imports. All of them fail.

#define NOTHING_THERE 8 // as WASI says that there is no such file
#define NONE(name, ...)                                                                                                \
    int32_t __imported_wasi_snapshot_preview1_##name(__VA_ARGS__) { return NOTHING_THERE; }

#pragma clang diagnostic ignored "-Wunused-parameter"
NONE(clock_time_get, int32_t a, int64_t b, int32_t c)
NONE(environ_get, int32_t a, int32_t b)
NONE(environ_sizes_get, int32_t a, int32_t b)
NONE(fd_close, int32_t a)
NONE(fd_fdstat_get, int32_t a, int32_t b)
NONE(fd_read, int32_t a, int32_t b, int32_t c, int32_t d)
NONE(fd_seek, int32_t a, int64_t b, int32_t c, int32_t d)
NONE(fd_write, int32_t a, int32_t b, int32_t c, int32_t d)
NONE(poll_oneoff, int32_t a, int32_t b, int32_t c, int32_t d)
NONE(random_get, int32_t a, int32_t b)
NONE(sched_yield, void)

_Noreturn void __imported_wasi_snapshot_preview1_proc_exit(int32_t code) { __builtin_trap(); }
