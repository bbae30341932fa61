// What QuickJS and the C library want of an operating system. There is none: no
// files, no environment, UTC. With these here, nothing of WASI is linked.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <wasi/api.h>

#include "engine.h"

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    (void)zone;
    uint64_t us = engine_microseconds();
    now->tv_sec = (time_t)(us / 1000000);
    now->tv_usec = (suseconds_t)(us % 1000000);
    return 0;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    (void)clock;
    uint64_t us = engine_microseconds();
    now->tv_sec = (time_t)(us / 1000000);
    now->tv_nsec = (long)(us % 1000000 * 1000);
    return 0;
}

// QuickJS asks for the offset to UTC only.
struct tm *localtime_r(const time_t *restrict time, struct tm *restrict broken) {
    (void)time;
    memset(broken, 0, sizeof *broken);
    return broken;
}

_Noreturn void abort(void) { __builtin_trap(); }

// QuickJS prints when it debugs itself, which it is not built for.
int printf(const char *restrict format, ...) {
    (void)format;
    return 0;
}

int fprintf(FILE *restrict file, const char *restrict format, ...) {
    (void)file, (void)format;
    return 0;
}

int fputc(int c, FILE *file) {
    (void)file;
    return c;
}

// Beneath the C library's files, which print to nowhere.

__wasi_errno_t __wasi_fd_close(__wasi_fd_t file) {
    (void)file;
    return __WASI_ERRNO_BADF;
}

__wasi_errno_t __wasi_fd_fdstat_get(__wasi_fd_t file, __wasi_fdstat_t *state) {
    (void)file, (void)state;
    return __WASI_ERRNO_BADF;
}

__wasi_errno_t __wasi_fd_seek(__wasi_fd_t file, __wasi_filedelta_t offset, __wasi_whence_t whence,
                              __wasi_filesize_t *place) {
    (void)file, (void)offset, (void)whence, (void)place;
    return __WASI_ERRNO_BADF;
}

__wasi_errno_t __wasi_fd_write(__wasi_fd_t file, const __wasi_ciovec_t *pieces, size_t count, __wasi_size_t *written) {
    (void)file, (void)pieces, (void)count, (void)written;
    return __WASI_ERRNO_BADF;
}
