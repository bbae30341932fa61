#include "settings.h"

#include "lib/json.h"

static bool fail(buffer *problem, text before, text name, text after) {
    buffer_add(problem, before);
    buffer_add(problem, name);
    buffer_add(problem, after);
    return false;
}

static bool read_words(const json *words, censor *censor, buffer *problem) {
    if (!words || words->kind != JSON_LIST) {
        return fail(problem, TEXT("settings: `words` must be a list of texts"), TEXT(""), TEXT(""));
    }
    for (const json *entry = words->first; entry; entry = entry->next) {
        if (entry->kind != JSON_STRING) {
            return fail(problem, TEXT("settings: `words` must be a list of texts"), TEXT(""), TEXT(""));
        }
        if (!censor_add(censor, entry->string)) {
            return fail(problem, TEXT("words: `"), entry->string, TEXT("` must begin with a letter or a digit"));
        }
    }
    censor_sort(censor);
    return true;
}

static bool read_action(const json *given, action *action, buffer *problem) {
    static const text NAMES[] = {[MASK] = {"mask", 4}, [REFUSE] = {"refuse", 6}, [DROP] = {"drop", 4}};
    *action = MASK;
    if (!given) return true;
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++) {
        if (given->kind == JSON_STRING && text_equals(given->string, NAMES[i])) {
            *action = i;
            return true;
        }
    }
    return fail(problem, TEXT("settings: `action` must be one of mask, refuse, drop"), TEXT(""), TEXT(""));
}

static bool read(const json *root, settings *settings, buffer *problem) {
    if (!root || root->kind != JSON_OBJECT) return fail(problem, TEXT("settings: they are no table"), TEXT(""), TEXT(""));
    for (const json *member = root->first; member; member = member->next) {
        if (!text_equals(member->key, TEXT("words")) && !text_equals(member->key, TEXT("action"))) {
            return fail(problem, TEXT("settings: unknown key `"), member->key, TEXT("`"));
        }
    }
    return read_words(json_get(root, TEXT("words")), &settings->censor, problem) &&
           read_action(json_get(root, TEXT("action")), &settings->action, problem);
}

bool settings_read(text given, settings *settings, buffer *problem) {
    json_document document = json_parse(given);
    bool ok = read(document.root, settings, problem);
    json_free(&document);
    if (!ok) censor_free(&settings->censor);
    return ok;
}
