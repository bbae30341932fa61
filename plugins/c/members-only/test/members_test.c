#include "lib/check.h"
#include "members.h"

#include <string.h>

static text of(const char *string) { return (text){string, strlen(string)}; }

static members read(const char *settings) {
    members made;
    buffer problem = {0};
    CHECK(members_read(of(settings), &made, &problem));
    return made;
}

#define ROOMS "\"rooms\":{\"team:*\":[\"ada\",\"group:staff\"],\"team:board\":[\"grace\"],\"*:log:*\":[\"group:ops\"]}"
#define STAFF "{\"groups\":[\"staff\",\"tea\"]}"
#define OPS "{\"groups\":[\"ops\"]}"

static bool admits(const char *settings, const char *room, const char *user, const char *info) {
    members listed = read(settings);
    bool answer = members_admits(&listed, of(room), of(user), of(info));
    members_free(&listed);
    return answer;
}

static bool in_teams(const char *room, const char *user, const char *info) {
    return admits("{" ROOMS "}", room, user, info);
}

static void listed_users_may_join(void) {
    CHECK(in_teams("team:red", "ada", ""));
    CHECK(!in_teams("team:red", "eve", ""));
}

static void members_of_a_listed_group_may_join(void) {
    CHECK(in_teams("team:red", "eve", STAFF));
    CHECK(!in_teams("team:red", "eve", "{\"groups\":[\"guests\"]}"));
}

static void a_user_is_never_taken_for_a_group(void) { CHECK(!in_teams("team:red", "group:staff", "")); }

static void anonymous_users_may_not_whatever_their_groups_and_the_settings(void) {
    CHECK(!in_teams("team:red", "", STAFF));
    CHECK(!admits("{\"otherwise\":\"allow\"}", "lobby", "", ""));
}

static void the_pattern_that_fixes_more_of_the_name_counts(void) {
    CHECK(in_teams("team:board", "grace", ""));
    CHECK(!in_teams("team:board", "ada", STAFF));
}

static void a_star_stands_for_any_run_of_characters(void) {
    CHECK(in_teams("eu:log:disk:full", "eve", OPS));
    CHECK(in_teams(":log:", "eve", OPS));
    CHECK(!in_teams("eu:log", "eve", OPS));
    CHECK(!in_teams("Team:red", "ada", ""));
    CHECK(!admits("{\"rooms\":{\"ab*ba\":[\"ada\"]}}", "aba", "ada", ""));
    CHECK(admits("{\"rooms\":{\"**\":[\"ada\"]}}", "", "ada", ""));
    CHECK(!admits("{\"rooms\":{\"a*b*c\":[\"ada\"]}}", "abb", "ada", ""));
}

static void rooms_that_no_pattern_matches_are_refused_unless_the_settings_allow_them(void) {
    CHECK(!in_teams("lobby", "ada", ""));
    CHECK(admits("{" ROOMS ",\"otherwise\":\"allow\"}", "lobby", "eve", ""));
    CHECK(!admits("{" ROOMS ",\"otherwise\":\"allow\"}", "team:red", "eve", ""));
}

static void an_info_without_groups_gives_none(void) {
    const char *infos[] = {"", "{}", "null", "7", "{\"groups\":\"staff\"}", "{\"groups\":[[\"staff\"]]}"};
    for (size_t i = 0; i < sizeof infos / sizeof *infos; i++) CHECK(!in_teams("team:red", "eve", infos[i]));
}

static void check_mistake(const char *settings, const char *named) {
    members made;
    buffer problem = {0};
    CHECK(!members_read(of(settings), &made, &problem));
    CHECK(text_contains(buffer_text(&problem), of(named)));
    buffer_free(&problem);
}

static void mistakes_in_the_settings_are_named(void) {
    check_mistake("{\"otherwise\":\"deny\"}", "`otherwise`");
    check_mistake("{\"room\":{}}", "unknown key `room`");
    check_mistake("{\"rooms\":{\"a\":\"ada\"}}", "`rooms.a`");
    check_mistake("{\"rooms\":[]}", "`rooms`");
}

int main(void) {
    check_begin();
    listed_users_may_join();
    members_of_a_listed_group_may_join();
    a_user_is_never_taken_for_a_group();
    anonymous_users_may_not_whatever_their_groups_and_the_settings();
    the_pattern_that_fixes_more_of_the_name_counts();
    a_star_stands_for_any_run_of_characters();
    rooms_that_no_pattern_matches_are_refused_unless_the_settings_allow_them();
    an_info_without_groups_gives_none();
    mistakes_in_the_settings_are_named();
    return check_end();
}
