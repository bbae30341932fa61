// Of lib/json.c and lib/text.c, which all C plugins share.

#include "lib/json.h"
#include "lib/check.h"

#include <string.h>

static text of(const char *string) { return (text){string, strlen(string)}; }

static void check_valid(const char *json, bool expected) {
    json_document document = json_parse(of(json));
    if ((document.root != NULL) != expected) fprintf(stderr, "%s: %s\n", json, document.problem);
    CHECK((document.root != NULL) == expected);
    json_free(&document);
}

static void what_is_json_is_read(void) {
    const char *valid[] = {"0",   "-0.5e+10", " [ ] ", "[1,[2,{}],\"\"]",    "{\"a\":null,\"\":{\"b\":[true,false]}}",
                           "\"\"", "\"\\/\"",  "1E2",   "\"\\ud83d\\ude00é\""};
    for (size_t i = 0; i < sizeof valid / sizeof *valid; i++) check_valid(valid[i], true);
}

static void what_is_no_json_is_refused(void) {
    const char *invalid[] = {"",      " ",       "01",         "+1",        ".5",        "1.",       "1e",
                             "nul",   "[1,]",    "[1 2]",      "{\"a\"}",   "{a:1}",     "{\"a\":}", "{\"a\":1,}",
                             "\"",    "\"\\x\"", "\"\\u12g4\"", "\"\n\"",   "\"\\ud800\"", "\"\\udc00\"", "\"\\ud800\\u0041\"",
                             "1 2",   "]",       "{",          "[",         "\"\\",      "-",        "\"\\ud800\\u\"", "'a'"};
    for (size_t i = 0; i < sizeof invalid / sizeof *invalid; i++) check_valid(invalid[i], false);
    char deep[402];
    memset(deep, '[', 200);
    memset(deep + 200, ']', 200);
    deep[400] = 0;
    check_valid(deep, false);
}

static void strings_are_decoded_and_written(void) {
    json_document document = json_parse(TEXT("{\"a\":1, \"a\" : \"\\u00e9\\ud83d\\ude00\\n\\\"\\\\\\u0001\" }"));
    const json *found = json_get(document.root, TEXT("a"));
    CHECK_TEXT(found->string, "é😀\n\"\\\x01");
    CHECK_TEXT(found->source, "\"\\u00e9\\ud83d\\ude00\\n\\\"\\\\\\u0001\"");
    buffer written = {0};
    buffer_add_json(&written, found->string);
    CHECK_TEXT(buffer_text(&written), "\"é😀\\n\\\"\\\\\\u0001\"");
    buffer_free(&written);
    json_free(&document);
}

static void counts_are_whole_and_not_negative(void) {
    uint64_t count;
    json_document document = json_parse(TEXT("[7,-1,1.5,1e2,9007199254740992,9007199254740993,\"7\"]"));
    bool expected[] = {true, false, false, false, true, false, false};
    const json *entry = document.root->first;
    for (size_t i = 0; i < sizeof expected; i++, entry = entry->next) CHECK(json_count(entry, &count) == expected[i]);
    json_free(&document);
}

static void texts_are_searched_and_trimmed(void) {
    CHECK(text_find(TEXT("aab"), TEXT("ab"), 0) == 1);
    CHECK(text_find(TEXT("aab"), TEXT("ba"), 0) == 3);
    CHECK(text_find(TEXT("a"), TEXT("aa"), 0) == 1);
    CHECK_TEXT(text_trim(TEXT(" \t a\u3000b \u3000")), "a\u3000b");
    CHECK_TEXT(text_trim(TEXT("  ")), "");
}

int main(void) {
    check_begin();
    what_is_json_is_read();
    what_is_no_json_is_refused();
    strings_are_decoded_and_written();
    counts_are_whole_and_not_negative();
    texts_are_searched_and_trimmed();
    return check_end();
}
