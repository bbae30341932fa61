// Who may be in which room. Nothing here knows of the gateway.
#pragma once

#include "lib/json.h"

typedef struct members {
    // Room patterns with their users and groups, the most exact first.
    struct rule {
        text pattern;
        // How many characters it fixes, as JavaScript counts them.
        size_t fixed;
        const json *entries;
    } *rules;
    size_t count;
    bool allows_otherwise;
    // What the texts above are part of.
    json_document document;
    char *source;
} members;

// `settings` is the plugin's table of the config, as JSON. False: `problem`
// says what is wrong with it.
bool members_read(text settings, members *members, buffer *problem);
void members_free(members *members);

// Whether `user` may join; `info` is the JSON of the connection, or empty.
bool members_admits(const members *members, text room, text user, text info);
