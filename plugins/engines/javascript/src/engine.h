// The script of this guest, and how a call ends that went wrong.
#pragma once

#include "types.h"

#define EXPORT(name) __attribute__((export_name(name)))
#define IMPORT(module, name) __attribute__((import_module(module), import_name(name)))

#define VERSION "1.0.0"
#define PACKAGE "wayleave:plugin/"

typedef enum { INIT, SELF_TEST, AUTHENTICATE, AUTHORIZE, AUTHORIZE_PUBLISH, TRANSFORM, ROUTE, OBSERVE, TICK, CALL, HOOKS } hook;

// The one of this guest; NULL before `load`.
extern JSContext *engine;

// Calls the script's hook, which takes the arguments over, and puts its answer
// into memory of the call. Whatever is wrong with it ends the guest.
void *engine_answer(hook hook, const type *answer, int count, JSValue *arguments);

typedef enum { THROWN, BAD_ANSWER } failure;

// Ends the call and the guest.
_Noreturn void engine_fail(failure kind, const char *message);

// Ends them with the exception that is pending, and with its place.
_Noreturn void engine_fail_with_exception(void);

// What an error says and where it was made, on one line; to be freed. Takes it
// over.
char *engine_describe(JSValue error);

// Microseconds since 1970, for `Date`. Ends the call where that is not granted.
uint64_t engine_microseconds(void);

// True if the script may use this interface of the host.
bool engine_grants(const char *interface);
