#include "settings.h"

#include "lib/check.h"

int main(void) {
    CHECK_TEXT(settings_problem(TEXT("{}")), "");
    CHECK_TEXT(settings_problem(TEXT("{\"word\": 1}")), "settings: there are none yet");
    return check_end();
}
