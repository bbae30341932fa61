// Comes before each file, QuickJS's too: what they want of an operating system is
// the engine's to say. There is none: no files, no environment, UTC.
#pragma once

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>

int engine_gettimeofday(struct timeval *now);
int engine_clock_gettime(struct timespec *now);

#define gettimeofday(now, zone) engine_gettimeofday(now)
#define clock_gettime(clock, now) engine_clock_gettime(now)
// QuickJS asks for the offset to UTC only.
#define localtime_r(time, broken) memset(broken, 0, sizeof *(broken))
#define abort() __builtin_trap()
// QuickJS prints when it debugs itself, which it is not built for.
#define printf(...) ((void)0)
#define fprintf(...) ((void)0)
#define fputc(c, file) ((void)(c))
#define fwrite(from, size, count, file) ((void)(from))
