// What one call needs, given back all at once when its answer has been read.
#pragma once

#include <stddef.h>
#include <stdint.h>

void *call_alloc(size_t size, size_t align);

// To be called when the answer of a call has been read.
void call_end(void);
