#include "memory.h"

#include <stdlib.h>
#include <string.h>

// Enough for nearly all calls; larger ones take blocks of their own.
#define OWN_SIZE (32 << 10)

typedef struct block {
    struct block *next;
    _Alignas(16) char bytes[];
} block;

static _Alignas(16) char own[OWN_SIZE];
static char *at = own;
static char *end = own + OWN_SIZE;
static block *blocks;

void *call_alloc(size_t size, size_t align) {
    char *start = (char *)(((uintptr_t)at + align - 1) & ~(uintptr_t)(align - 1));
    if (start <= end && size <= (size_t)(end - start)) {
        at = start + size;
        return start;
    }
    size_t room = size > OWN_SIZE ? size : OWN_SIZE;
    block *added = malloc(sizeof(block) + room);
    // The gateway takes a fresh guest, and says that memory was refused.
    if (!added) __builtin_trap();
    added->next = blocks;
    blocks = added;
    at = added->bytes + size;
    end = added->bytes + room;
    return added->bytes;
}

void call_end(void) {
    while (blocks) {
        block *next = blocks->next;
        free(blocks);
        blocks = next;
    }
    at = own;
    end = own + OWN_SIZE;
}

// How the gateway puts arguments, and what host functions return, into our
// memory.
__attribute__((export_name("cabi_realloc"))) void *cabi_realloc(void *old, size_t old_size, size_t align, size_t size) {
    void *made = call_alloc(size, align);
    if (old_size > 0) memcpy(made, old, old_size < size ? old_size : size);
    return made;
}
