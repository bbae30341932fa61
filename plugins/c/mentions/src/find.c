#include "find.h"

bool may_concern(text json) {
    return text_contains(json, TEXT("@")) || text_contains(json, TEXT("announce")) || text_contains(json, TEXT("\\u"));
}

text announcement(text written) {
    text command = TEXT("/announce ");
    if (!text_starts_with(written, command)) return TEXT("");
    return text_trim(text_slice(written, command.length, written.length));
}

static bool is_name(uint32_t c) { return char_is_alphanumeric(c) || c == '_' || c == '-' || c == '.'; }

// From `start` to where a name ends.
static text name_at(text written, size_t start) {
    size_t end = start, length;
    while (end < written.length && is_name(text_char_at(written, end, &length))) end += length;
    // The dot of `ask @ada.` ends the sentence; that of `@ada.l` does not.
    while (end > start && (written.at[end - 1] == '.' || written.at[end - 1] == '-')) end--;
    return text_slice(written, start, end);
}

static bool is_among(const text *names, size_t count, text name) {
    for (size_t i = 0; i < count; i++) {
        if (text_equals(names[i], name)) return true;
    }
    return false;
}

size_t mentions(text written, text sender, text *names, size_t max) {
    size_t count = 0;
    for (size_t at = 0; count < max; at++) {
        at = text_find(written, TEXT("@"), at);
        if (at == written.length) break;
        // Behind a letter it is an e-mail address.
        if (at > 0 && is_name(text_char_before(written, at))) continue;
        text name = name_at(written, at + 1);
        if (name.length > 0 && !text_equals(name, sender) && !is_among(names, count, name)) names[count++] = name;
    }
    return count;
}
