// QuickJS with the few things that its own interface does not offer, or offers
// slowly. They know its insides, so its version is pinned in Cargo.toml.
#pragma once

#include <quickjs.h>

typedef struct JSShape JSShape;

// The shape of plain objects that have these properties, in this order.
JSShape *shape_new(JSContext *ctx, int count, const JSAtom *names);

// A plain object of that shape; takes the values over. A tenth of what setting
// one property after the other costs.
JSValue shape_object(JSContext *ctx, JSShape *shape, int count, const JSValue *values);

// The value of a plain data property of the object itself, borrowed; what is
// more than that (a getter, the prototype's, a proxy's) is JS_UNINITIALIZED.
JSValueConst object_peek(JSValueConst object, JSAtom name);

// The bytes of a string that are its UTF-8, which only ASCII has; else NULL.
const char *string_ascii(JSValueConst string, size_t *length);
