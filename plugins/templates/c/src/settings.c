#include "settings.h"

#include "lib/json.h"

text settings_problem(text source) {
    json_document read = json_parse(source);
    bool is_empty = read.root && !read.root->first;
    json_free(&read);
    return is_empty ? (text){0} : TEXT("settings: there are none yet");
}
