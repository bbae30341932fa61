#include "find.h"
#include "lib/check.h"
#include "settings.h"

#include <string.h>

#define NAMES_MAX 3

static text of(const char *string) { return (text){string, strlen(string)}; }

// `expected` are names, each followed by a space.
static void check_mentions(const char *written, const char *expected) {
    text names[NAMES_MAX];
    buffer joined = {0};
    size_t count = mentions(of(written), TEXT("me"), names, NAMES_MAX);
    for (size_t i = 0; i < count; i++) {
        buffer_add(&joined, names[i]);
        buffer_add_byte(&joined, ' ');
    }
    check_text(buffer_text(&joined), of(expected), written, 0);
    buffer_free(&joined);
}

static void names_are_found_between_other_text(void) {
    check_mentions("@ada and (@grace): ask @j.doe-2.", "ada grace j.doe-2 ");
    check_mentions("@Jürgen, @名前!", "Jürgen 名前 ");
}

static void each_is_mentioned_once_and_never_the_sender(void) { check_mentions("@ada @me @ada", "ada "); }

static void addresses_and_lone_signs_are_no_mentions(void) { check_mentions("ada@example.com é@b @ @. @@", ""); }

static void there_is_a_limit(void) { check_mentions("@a @b @c @d", "a b c "); }

static void an_announcement_begins_with_the_command(void) {
    CHECK_TEXT(announcement(TEXT("/announce we are back ")), "we are back");
    CHECK_TEXT(announcement(TEXT("do not /announce it")), "");
    CHECK_TEXT(announcement(TEXT("/announcement")), "");
    CHECK_TEXT(announcement(TEXT("/announce  ")), "");
}

static void escapes_do_not_hide_anything(void) {
    CHECK(may_concern(TEXT("{\"text\":\"\\/announce x\"}")));
    CHECK(may_concern(TEXT("{\"text\":\"\\u002f\\u0061nnounce x\"}")));
    CHECK(may_concern(TEXT("{\"text\":\"\\u0040ada\"}")));
    CHECK(!may_concern(TEXT("{\"text\":\"hello\\nthere\"}")));
}

static void settings_have_defaults(void) {
    settings read;
    buffer problem = {0};
    CHECK(settings_read(TEXT("{}"), &read, &problem));
    CHECK_TEXT(read.field, "text");
    CHECK(read.max_mentions == 10 && !read.announcers && !read.announce_rooms);
    settings_free(&read);
}

static void check_mistake(const char *given, const char *named) {
    settings read;
    buffer problem = {0};
    CHECK(!settings_read(of(given), &read, &problem));
    CHECK(text_contains(buffer_text(&problem), of(named)));
    buffer_free(&problem);
}

static void mistakes_in_the_settings_are_named(void) {
    check_mistake("{\"max_mention\":1}", "max_mention");
    check_mistake("{\"max_mentions\":-1}", "`max_mentions`");
    check_mistake("{\"field\":1}", "`field`");
    check_mistake("{\"announcers\":[\"ada\"]}", "announce_rooms");
    check_mistake("{\"announcers\":[\"\"],\"announce_rooms\":[\"all\"]}", "anonymous");
}

int main(void) {
    check_begin();
    names_are_found_between_other_text();
    each_is_mentioned_once_and_never_the_sender();
    addresses_and_lone_signs_are_no_mentions();
    there_is_a_limit();
    an_announcement_begins_with_the_command();
    escapes_do_not_hide_anything();
    settings_have_defaults();
    mistakes_in_the_settings_are_named();
    return check_end();
}
