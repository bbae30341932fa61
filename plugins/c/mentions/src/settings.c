#include "settings.h"

#include <stdlib.h>
#include <string.h>

// More of them would be no mentions, but a way to reach everybody.
#define MENTIONS_MAX 1000

static bool fail(buffer *problem, text before, text name, text after) {
    buffer_add(problem, before);
    buffer_add(problem, name);
    buffer_add(problem, after);
    return false;
}

static bool is_known(text key) {
    return text_equals(key, TEXT("field")) || text_equals(key, TEXT("max_mentions")) ||
           text_equals(key, TEXT("announcers")) || text_equals(key, TEXT("announce_rooms"));
}

// A list of texts, or nothing.
static bool read_texts(const json *root, text key, const json **list, buffer *problem) {
    *list = json_get(root, key);
    if (!*list) return true;
    bool ok = (*list)->kind == JSON_LIST;
    for (const json *entry = (*list)->first; ok && entry; entry = entry->next) ok = entry->kind == JSON_STRING;
    return ok || fail(problem, TEXT("settings: `"), key, TEXT("` must be a list of texts"));
}

static bool is_empty(const json *list) { return !list || !list->first; }

static bool read_from(const json *root, settings *settings, buffer *problem) {
    if (!root || root->kind != JSON_OBJECT) return fail(problem, TEXT("settings: they are no table"), TEXT(""), TEXT(""));
    for (const json *member = root->first; member; member = member->next) {
        if (!is_known(member->key)) return fail(problem, TEXT("settings: unknown key `"), member->key, TEXT("`"));
    }
    const json *field = json_get(root, TEXT("field"));
    if (field && field->kind != JSON_STRING) {
        return fail(problem, TEXT("settings: `field` must be a text"), TEXT(""), TEXT(""));
    }
    settings->field = field ? field->string : TEXT("text");
    const json *max = json_get(root, TEXT("max_mentions"));
    uint64_t count = 10;
    if (max && (!json_count(max, &count) || count > MENTIONS_MAX)) {
        return fail(problem, TEXT("settings: `max_mentions` must be a number from 0 to 1000"), TEXT(""), TEXT(""));
    }
    settings->max_mentions = (size_t)count;
    if (!read_texts(root, TEXT("announcers"), &settings->announcers, problem) ||
        !read_texts(root, TEXT("announce_rooms"), &settings->announce_rooms, problem)) {
        return false;
    }
    for (const json *name = settings->announcers ? settings->announcers->first : NULL; name; name = name->next) {
        if (name->string.length == 0) {
            return fail(problem, TEXT("settings: an empty name in `announcers` would let anonymous users announce"),
                        TEXT(""), TEXT(""));
        }
    }
    if (is_empty(settings->announce_rooms) && !is_empty(settings->announcers)) {
        return fail(problem, TEXT("settings: `announcers` need `announce_rooms`"), TEXT(""), TEXT(""));
    }
    return true;
}

bool settings_read(text given, settings *read, buffer *problem) {
    // The tree refers to the text, so it gets its own.
    char *source = allocate(given.length);
    memcpy(source, given.at, given.length);
    *read = (settings){.source = source, .document = json_parse((text){source, given.length})};
    bool ok = read_from(read->document.root, read, problem);
    if (!ok) settings_free(read);
    return ok;
}

void settings_free(settings *freed) {
    json_free(&freed->document);
    free(freed->source);
    *freed = (settings){0};
}
