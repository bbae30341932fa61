// The plugin's settings, checked: what is wrong with them is better told when the
// plugin is loaded than at the first message. It does not speak with the gateway,
// so tests can run it.
#pragma once

#include "lib/text.h"

// What is wrong with `json`, the plugin's table of the config; empty: nothing.
text settings_problem(text json);
