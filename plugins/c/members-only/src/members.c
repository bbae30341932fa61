#include "members.h"

#include <stdlib.h>
#include <string.h>

static const text GROUP = {"group:", 6};

static bool fail(buffer *problem, text before, text name, text after) {
    buffer_add(problem, before);
    buffer_add(problem, name);
    buffer_add(problem, after);
    return false;
}

// How many characters a pattern fixes: all but `*`, in units of UTF-16.
static size_t fixed(text pattern) {
    size_t count = 0, length;
    for (size_t at = 0; at < pattern.length; at += length) {
        uint32_t c = text_char_at(pattern, at, &length);
        if (c != '*') count += c < 0x10000 ? 1 : 2;
    }
    return count;
}

// The order of a TOML table is not kept, so it cannot decide between two
// patterns that match. The one that fixes more of the name does; a tie is broken
// by the alphabet, only so that all guests decide alike.
static int by_exactness(const void *a, const void *b) {
    const struct rule *one = a, *other = b;
    if (one->fixed != other->fixed) return one->fixed > other->fixed ? -1 : 1;
    size_t shorter = one->pattern.length < other->pattern.length ? one->pattern.length : other->pattern.length;
    int order = memcmp(one->pattern.at, other->pattern.at, shorter);
    if (order != 0) return order;
    return one->pattern.length < other->pattern.length ? -1 : one->pattern.length > other->pattern.length;
}

static bool read_rooms(const json *rooms, members *members, buffer *problem) {
    if (!rooms) return true;
    if (rooms->kind != JSON_OBJECT) {
        return fail(problem, TEXT("settings: `rooms` must be a table of patterns"), TEXT(""), TEXT(""));
    }
    size_t count = 0;
    for (const json *room = rooms->first; room; room = room->next) count++;
    members->rules = allocate(count * sizeof(struct rule));
    for (const json *room = rooms->first; room; room = room->next) {
        bool is_list = room->kind == JSON_LIST;
        for (const json *entry = room->first; is_list && entry; entry = entry->next) is_list = entry->kind == JSON_STRING;
        if (!is_list) {
            return fail(problem, TEXT("settings: `rooms."), room->key, TEXT("` must be a list of users and groups"));
        }
        members->rules[members->count++] = (struct rule){room->key, fixed(room->key), room};
    }
    qsort(members->rules, members->count, sizeof(struct rule), by_exactness);
    return true;
}

static bool read_otherwise(const json *otherwise, members *members, buffer *problem) {
    if (!otherwise) return true;
    bool is_text = otherwise->kind == JSON_STRING;
    members->allows_otherwise = is_text && text_equals(otherwise->string, TEXT("allow"));
    if (members->allows_otherwise || (is_text && text_equals(otherwise->string, TEXT("refuse")))) return true;
    return fail(problem, TEXT("settings: `otherwise` must be `allow` or `refuse`"), TEXT(""), TEXT(""));
}

static bool read(const json *root, members *members, buffer *problem) {
    if (!root || root->kind != JSON_OBJECT) return fail(problem, TEXT("settings: they are no table"), TEXT(""), TEXT(""));
    for (const json *member = root->first; member; member = member->next) {
        if (!text_equals(member->key, TEXT("rooms")) && !text_equals(member->key, TEXT("otherwise"))) {
            return fail(problem, TEXT("settings: unknown key `"), member->key, TEXT("`"));
        }
    }
    return read_otherwise(json_get(root, TEXT("otherwise")), members, problem) &&
           read_rooms(json_get(root, TEXT("rooms")), members, problem);
}

bool members_read(text settings, members *members, buffer *problem) {
    // The tree refers to the text, so it gets its own.
    char *source = allocate(settings.length);
    memcpy(source, settings.at, settings.length);
    *members = (struct members){0};
    members->document = json_parse((text){source, settings.length});
    members->source = source;
    bool ok = read(members->document.root, members, problem);
    if (!ok) members_free(members);
    return ok;
}

void members_free(members *freed) {
    free(freed->rules);
    json_free(&freed->document);
    free(freed->source);
    *freed = (members){0};
}

// Whether `room` is the parts of the pattern between its `*` in this order, with
// any run of characters between them. With several `*`, to try all ways can take
// very long for names that a client makes up; the first place of each part does.
static bool matches(text pattern, text room) {
    size_t star = text_find(pattern, TEXT("*"), 0);
    if (star == pattern.length) return text_equals(room, pattern);
    text first = text_slice(pattern, 0, star);
    if (!text_starts_with(room, first)) return false;
    size_t at = first.length;
    for (;;) {
        size_t next = text_find(pattern, TEXT("*"), star + 1);
        text part = text_slice(pattern, star + 1, next);
        if (next == pattern.length) return room.length >= at + part.length && text_ends_with(room, part);
        size_t found = text_find(room, part, at);
        if (found + part.length > room.length) return false;
        at = found + part.length;
        star = next;
    }
}

static bool lists(const json *entries, text name, bool as_group) {
    for (const json *entry = entries->first; entry; entry = entry->next) {
        // An entry is a user or a group, never both: a user whose id happens to
        // be `group:staff` does not become one of the staff.
        bool is_group = text_starts_with(entry->string, GROUP);
        text listed = is_group ? text_slice(entry->string, GROUP.length, entry->string.length) : entry->string;
        if (is_group == as_group && text_equals(listed, name)) return true;
    }
    return false;
}

// Whether one of the info's `groups` is listed; whatever is not as expected
// gives none.
static bool lists_group_of(const json *entries, text info) {
    json_document document = json_parse(info);
    const json *groups = json_get(document.root, TEXT("groups"));
    bool found = false;
    if (groups && groups->kind == JSON_LIST) {
        for (const json *group = groups->first; group && !found; group = group->next) {
            found = group->kind == JSON_STRING && lists(entries, group->string, true);
        }
    }
    json_free(&document);
    return found;
}

bool members_admits(const members *members, text room, text user, text info) {
    if (user.length == 0) return false;
    for (size_t i = 0; i < members->count; i++) {
        const struct rule *rule = &members->rules[i];
        if (matches(rule->pattern, room)) {
            return lists(rule->entries, user, false) || lists_group_of(rule->entries, info);
        }
    }
    return members->allows_otherwise;
}
