package main

import (
	"slices"
	"strings"
	"testing"
)

func checkMentions(t *testing.T, text string, expected ...string) {
	t.Helper()
	if found := mentions(text, "me", 3); !slices.Equal(found, expected) {
		t.Errorf("%q: %q", text, found)
	}
}

func TestNamesAreFoundBetweenOtherText(t *testing.T) {
	checkMentions(t, "@ada and (@grace): ask @j.doe-2.", "ada", "grace", "j.doe-2")
	checkMentions(t, "@Jürgen, @名前!", "Jürgen", "名前")
}

func TestEachIsMentionedOnceAndNeverTheSender(t *testing.T) {
	checkMentions(t, "@ada @me @ada", "ada")
}

func TestAddressesAndLoneSignsAreNoMentions(t *testing.T) {
	checkMentions(t, "ada@example.com @ @. @@")
}

func TestThereIsALimit(t *testing.T) {
	checkMentions(t, "@a @b @c @d", "a", "b", "c")
}

func TestOnlyTheNamedStringFieldCounts(t *testing.T) {
	for _, text := range []string{`{"text":"a\n@b"}`, `{"text":"\ufffd\\\ufffd�"}`} {
		if _, ok := field(text, "text"); !ok {
			t.Error(text)
		}
	}
	for _, text := range []string{
		`{"text":7}`, `{"text":null}`, `{"body":"@b"}`, `["@b"]`, `"@b"`, `{"Text":"@b"}`,
		`{"text":"\ud800 @b"}`, `{"text":"\\ufffd\ud800 @b"}`,
	} {
		if found, ok := field(text, "text"); ok {
			t.Errorf("%s: %q", text, found)
		}
	}
}

func TestAnAnnouncementBeginsWithTheCommand(t *testing.T) {
	if text, ok := announcement("/announce we are back "); !ok || text != "we are back" {
		t.Errorf("%q", text)
	}
	for _, text := range []string{"do not /announce it", "/announcement", "/announce  "} {
		if _, ok := announcement(text); ok {
			t.Error(text)
		}
	}
}

func TestEscapesDoNotHideAnything(t *testing.T) {
	for _, text := range []string{`{"text":"\/announce x"}`, `{"text":"\u002f\u0061nnounce x"}`, `{"text":"\u0040ada"}`} {
		if !mayConcern(text) {
			t.Error(text)
		}
	}
	if mayConcern(`{"text":"hello\nthere"}`) {
		t.Error("it concerns nobody")
	}
}

func TestSettingsHaveDefaults(t *testing.T) {
	if settings, err := parseSettings("{}"); err != nil || settings.Field != "text" || settings.MaxMentions != 10 {
		t.Error(settings, err)
	}
}

func TestMistakesInTheSettingsAreNamed(t *testing.T) {
	for text, what := range map[string]string{
		`{"max_mention":1}`:                            "max_mention",
		`{"max_mentions":-1}`:                          "max_mentions",
		`{"announcers":["ada"]}`:                       "announce_rooms",
		`{"announcers":[""],"announce_rooms":["all"]}`: "anonymous",
	} {
		if _, err := parseSettings(text); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
