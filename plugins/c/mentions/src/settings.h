// The plugin's settings, checked: what is wrong with them is better told when
// the plugin is loaded than at the first message.
#pragma once

#include "lib/json.h"

typedef struct {
    // Where in the payload people write.
    text field;
    size_t max_mentions;
    // Lists of texts; NULL for none.
    const json *announcers;
    const json *announce_rooms;
    // What those are part of.
    json_document document;
    char *source;
} settings;

// False: `problem` says what is wrong.
bool settings_read(text given, settings *read, buffer *problem);
void settings_free(settings *freed);
