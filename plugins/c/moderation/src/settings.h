// The plugin's settings, checked: what is wrong with them is better told when
// the plugin is loaded than at the first message.
#pragma once

#include "censor.h"

typedef enum { MASK, REFUSE, DROP } action;

typedef struct {
    censor censor;
    action action;
} settings;

// False: `problem` says what is wrong.
bool settings_read(text json, settings *settings, buffer *problem);
