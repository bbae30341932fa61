// What scripts find without importing it, beside the language itself: console,
// TextEncoder, TextDecoder.
#pragma once

#include "objects.h"

void globals_begin(JSContext *ctx);
