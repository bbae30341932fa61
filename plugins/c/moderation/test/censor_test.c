#include "censor.h"
#include "lib/check.h"
#include "lib/json.h"
#include "settings.h"

#include <string.h>

// The words are parted by commas.
static censor listed(const char *words) {
    censor made = {0};
    for (const char *end; *words; words = *end ? end + 1 : end) {
        end = strchr(words, ',') ? strchr(words, ',') : words + strlen(words);
        CHECK(censor_add(&made, (text){words, (size_t)(end - words)}));
    }
    censor_sort(&made);
    return made;
}

static void check_masked(const char *words, const char *given, const char *expected) {
    censor censor = listed(words);
    text json = {given, strlen(given)};
    buffer masked = {0};
    CHECK(censor_suspects(&censor, json));
    CHECK(censor_mask_json(&censor, json, &masked) == CENSOR_MASKED);
    check_text(buffer_text(&masked), (text){expected, strlen(expected)}, given, 0);
    json_document read = json_parse(buffer_text(&masked));
    CHECK(read.root);
    json_free(&read);
    buffer_free(&masked);
    censor_free(&censor);
}

static void check_clean(const char *words, const char *given) {
    censor censor = listed(words);
    buffer masked = {0};
    CHECK(censor_mask_json(&censor, (text){given, strlen(given)}, &masked) == CENSOR_CLEAN);
    censor_free(&censor);
}

static void check_suspects(const char *words, const char *given, bool expected) {
    censor censor = listed(words);
    CHECK(censor_suspects(&censor, (text){given, strlen(given)}) == expected);
    censor_free(&censor);
}

static void whole_words_are_masked_without_regard_to_case(void) {
    check_masked("darn", "{\"text\":\"Darn it, DARN!\"}", "{\"text\":\"**** it, ****!\"}");
    check_masked("DARN", "\"darn\"", "\"****\"");
}

static void parts_of_words_are_left_alone(void) {
    check_clean("ass", "{\"text\":\"a classic assembly, ass3\"}");
    check_suspects("ass", "{\"text\":\"a classic assembly\"}", false);
}

static void keys_and_numbers_stay_as_they_are(void) {
    check_clean("darn,12", "{\"darn\":12}");
    check_masked("darn,1", "{ \"darn\" : 1.0, \"n\": 12345678901234567890, \"a\": [\"darn\", {\"b\":\"1\"}] }",
                 "{ \"darn\" : 1.0, \"n\": 12345678901234567890, \"a\": [\"****\", {\"b\":\"*\"}] }");
}

static void letters_of_escapes_are_no_part_of_a_word(void) {
    check_masked("darn", "{\"text\":\"so\\ndarn\\\\darn\\\"darn\\\"\"}", "{\"text\":\"so\\n****\\\\****\\\"****\\\"\"}");
    check_suspects("no", "{\"text\":\"\\no\"}", false);
}

static void escaped_letters_do_not_hide_a_word(void) {
    check_masked("darn", "{\"text\":\"d\\u0061rn\"}", "{\"text\":\"****\"}");
    check_clean("darn", "{\"text\":\"d\\u0061re\"}");
}

static void other_scripts_are_folded_and_bounded_too(void) {
    check_masked("käse", "\"“KÄSE” und Käsekuchen\"", "\"“****” und Käsekuchen\"");
    check_masked("κακός", "\"ΚΑΚΌΣ\"", "\"*****\"");
    check_masked("плохо", "\"Плохо…\"", "\"*****…\"");
}

static void of_two_phrases_the_longer_counts(void) {
    check_masked("bad,bad word", "\"bad word, bad words, bad\"", "\"********, *** words, ***\"");
    check_masked("c++", "\"C++ and c++17\"", "\"*** and c++17\"");
}

static void half_a_surrogate_pair_is_an_error(void) {
    censor censor = listed("darn");
    buffer masked = {0};
    CHECK(censor_mask_json(&censor, TEXT("{\"text\":\"\\ud800 darn\"}"), &masked) == CENSOR_NOT_UNICODE);
    CHECK(censor_mask_json(&censor, TEXT("[\"darn\",\"\\ud800\"]"), &masked) == CENSOR_NOT_UNICODE);
    CHECK(masked.at == NULL);
    censor_free(&censor);
}

static void a_text_that_cannot_be_found_is_refused(void) {
    censor censor = {0};
    CHECK(!censor_add(&censor, TEXT("!!")));
    CHECK(!censor_add(&censor, TEXT("")));
    censor_free(&censor);
}

static void check_settings(text json, bool is_ok, text named) {
    settings read = {0};
    buffer problem = {0};
    CHECK(settings_read(json, &read, &problem) == is_ok);
    CHECK(text_contains(buffer_text(&problem), named));
    buffer_free(&problem);
    censor_free(&read.censor);
}

static void mistakes_in_the_settings_are_named(void) {
    check_settings(TEXT("{\"words\":[]}"), true, TEXT(""));
    check_settings(TEXT("{\"words\":[\"a\"],\"action\":\"drop\"}"), true, TEXT(""));
    check_settings(TEXT("{}"), false, TEXT("`words`"));
    check_settings(TEXT("{\"words\":[7]}"), false, TEXT("`words`"));
    check_settings(TEXT("{\"words\":[\"!\"]}"), false, TEXT("`!`"));
    check_settings(TEXT("{\"words\":[],\"action\":\"hide\"}"), false, TEXT("`action`"));
    check_settings(TEXT("{\"words\":[],\"word\":[]}"), false, TEXT("unknown key `word`"));
    check_settings(TEXT("[]"), false, TEXT("table"));
}

int main(void) {
    check_begin();
    whole_words_are_masked_without_regard_to_case();
    parts_of_words_are_left_alone();
    keys_and_numbers_stay_as_they_are();
    letters_of_escapes_are_no_part_of_a_word();
    escaped_letters_do_not_hide_a_word();
    other_scripts_are_folded_and_bounded_too();
    of_two_phrases_the_longer_counts();
    half_a_surrogate_pair_is_an_error();
    a_text_that_cannot_be_found_is_refused();
    mistakes_in_the_settings_are_named();
    return check_end();
}
