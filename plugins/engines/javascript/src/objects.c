// The whole of QuickJS, with what objects.h adds to it.

#include <quickjs.c>

#include "objects.h"

JSShape *shape_new(JSContext *ctx, int count, const JSAtom *names) {
    JSValue object = JS_NewObject(ctx);
    for (int i = 0; i < count; i++) JS_DefinePropertyValue(ctx, object, names[i], JS_UNDEFINED, JS_PROP_C_W_E);
    JSShape *shape = js_dup_shape(JS_VALUE_GET_OBJ(object)->shape);
    JS_FreeValue(ctx, object);
    return shape;
}

JSValue shape_object(JSContext *ctx, JSShape *shape, int count, const JSValue *values) {
    JSProperty properties[16];
    for (int i = 0; i < count; i++) properties[i].u.value = values[i];
    return JS_NewObjectFromShape(ctx, js_dup_shape(shape), JS_CLASS_OBJECT, properties);
}

JSValueConst object_peek(JSValueConst object, JSAtom name) {
    JSObject *p = JS_VALUE_GET_OBJ(object);
    JSProperty *property;
    JSShapeProperty *found = find_own_property(&property, p, name);
    if (!found || (found->flags & JS_PROP_TMASK) != JS_PROP_NORMAL || p->is_exotic) return JS_UNINITIALIZED;
    return property->u.value;
}

const char *string_ascii(JSValueConst string, size_t *length) {
    if (JS_VALUE_GET_TAG(string) != JS_TAG_STRING) return NULL;
    JSString *p = JS_VALUE_GET_STRING(string);
    if (p->is_wide_char) return NULL;
    const uint8_t *bytes = str8(p);
    // Branchless, for the compiler makes vectors of it.
    uint8_t all = 0;
    for (size_t i = 0; i < p->len; i++) all |= bytes[i];
    if (all >= 0x80) return NULL;
    *length = p->len;
    return (const char *)bytes;
}
