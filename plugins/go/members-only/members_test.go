package main

import (
	"strings"
	"testing"
)

const (
	rooms = `"rooms":{"team:*":["ada","group:staff"],"team:board":["grace"],"*:log:*":["group:ops"]}`
	staff = `{"groups":["staff","tea"]}`
	ops   = `{"groups":["ops"]}`
)

func check(t *testing.T, settings string, expected bool, room, user, info string) {
	t.Helper()
	members, err := NewMembers(settings)
	if err != nil {
		t.Fatal(err)
	}
	if members.Admits(room, user, info) != expected {
		t.Errorf("`%s` in `%s` with `%s`: not %v", user, room, info, expected)
	}
}

func admits(t *testing.T, room, user, info string) {
	t.Helper()
	check(t, "{"+rooms+"}", true, room, user, info)
}
func refuses(t *testing.T, room, user, info string) {
	t.Helper()
	check(t, "{"+rooms+"}", false, room, user, info)
}

func TestListedUsersMayJoin(t *testing.T) {
	admits(t, "team:red", "ada", "")
	refuses(t, "team:red", "eve", "")
}

func TestMembersOfAListedGroupMayJoin(t *testing.T) {
	admits(t, "team:red", "eve", staff)
	refuses(t, "team:red", "eve", `{"groups":["guests"]}`)
}

func TestAUserIsNeverTakenForAGroup(t *testing.T) {
	refuses(t, "team:red", "group:staff", "")
}

func TestAnonymousUsersMayNotWhateverTheirGroupsAndTheSettings(t *testing.T) {
	refuses(t, "team:red", "", staff)
	check(t, `{"otherwise":"allow"}`, false, "lobby", "", "")
}

func TestThePatternThatFixesMoreOfTheNameCounts(t *testing.T) {
	admits(t, "team:board", "grace", "")
	refuses(t, "team:board", "ada", staff)
}

func TestAStarStandsForAnyRunOfCharacters(t *testing.T) {
	admits(t, "eu:log:disk:full", "eve", ops)
	admits(t, ":log:", "eve", ops)
	refuses(t, "eu:log", "eve", ops)
	refuses(t, "Team:red", "ada", "")
	check(t, `{"rooms":{"ab*ba":["ada"]}}`, false, "aba", "ada", "")
}

func TestRoomsThatNoPatternMatchesAreRefusedUnlessTheSettingsAllowThem(t *testing.T) {
	refuses(t, "lobby", "ada", "")
	open := `{"otherwise":"allow",` + rooms + "}"
	check(t, open, true, "lobby", "eve", "")
	check(t, open, false, "team:red", "eve", "")
}

func TestAnInfoWithoutGroupsGivesNone(t *testing.T) {
	for _, info := range []string{"", "{}", "null", "7", `{"groups":"staff"}`, `{"groups":[["staff"]]}`} {
		refuses(t, "team:red", "eve", info)
	}
	admits(t, "team:red", "eve", `{"groups":[7,"staff"]}`)
}

func TestMistakesInTheSettingsAreNamed(t *testing.T) {
	for text, what := range map[string]string{
		`{"otherwise":"deny"}`:  "`otherwise`",
		`{"room":{}}`:           `"room"`,
		`{"rooms":{"a":"ada"}}`: "`rooms.a`",
		`{"rooms":null}`:        "`rooms`",
	} {
		if _, err := NewMembers(text); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
