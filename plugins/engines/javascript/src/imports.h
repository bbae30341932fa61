// The host's interfaces as modules: `import { log } from "wayleave:plugin/log"`.
#pragma once

#include "objects.h"

void imports_begin(JSContext *ctx);

// Those that the script imports and may not, named for people; NULL if none.
const char *imports_missing(void);

// From now on an import that may not be throws, as `import()` can do it late.
void imports_seal(void);

// The host's functions that the engine uses itself.
uint64_t import_now(void);
void import_log(uint32_t level, const char *message, size_t length);
