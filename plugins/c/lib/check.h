// What the plugins' own tests need: a check that says where it failed. Each
// test is a program; it ends with `return check_end();`.
#pragma once

#include <locale.h>
#include <stdio.h>

#include "text.h"

static int checks_passed, checks_failed;

#define CHECK(condition) check_that((condition), #condition, __FILE__, __LINE__)
#define CHECK_TEXT(actual, expected) check_text((actual), TEXT(expected), __FILE__, __LINE__)

static inline void check_that(bool holds, const char *what, const char *file, int line) {
    if (holds) {
        checks_passed++;
    } else {
        checks_failed++;
        fprintf(stderr, "%s:%d: not so: %s\n", file, line, what);
    }
}

static inline void check_text(text actual, text expected, const char *file, int line) {
    if (text_equals(actual, expected)) {
        checks_passed++;
    } else {
        checks_failed++;
        fprintf(stderr, "%s:%d: `%.*s` is not `%.*s`\n", file, line, TEXT_ARGUMENTS(actual), TEXT_ARGUMENTS(expected));
    }
}

// In a plugin the C library knows all letters by itself; here it wants to be
// told that text is UTF-8.
static inline void check_begin(void) { setlocale(LC_CTYPE, "C.UTF-8"); }

static inline int check_end(void) {
    printf("%d passed, %d failed\n", checks_passed, checks_failed);
    return checks_failed == 0 ? 0 : 1;
}
