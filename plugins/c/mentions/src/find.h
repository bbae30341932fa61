// Finds what concerns others in what people write.
#pragma once

#include "lib/text.h"

// False only if `json` holds neither a mention nor an announcement. A slash may
// be written `\/`, and any letter as `\u`, hence not the whole command.
bool may_concern(text json);

// What is to be announced, if that is what `written` wants; else empty.
text announcement(text written);

// The names that `written` mentions, each once, in order, at most `max`, without
// the sender's own. `names` has room for `max`; returns how many there are.
size_t mentions(text written, text sender, text *names, size_t max);
