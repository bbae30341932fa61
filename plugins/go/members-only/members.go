package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf16"
)

const group = "group:"

// Members says who may be in which room. Nothing here knows of the gateway.
type Members struct {
	// The most exact first.
	rules     []rule
	otherwise bool
}

type rule struct {
	// The room pattern between its `*`.
	parts []string
	// How many characters it fixes, and the whole, as others count and order
	// text, who write this plugin in JavaScript.
	fixed   int
	pattern []uint16

	users, groups map[string]bool
}

// NewMembers checks the plugin's settings, which are JSON.
func NewMembers(text string) (*Members, error) {
	settings := struct {
		Rooms     map[string]json.RawMessage `json:"rooms"`
		Otherwise string                     `json:"otherwise"`
	}{Rooms: map[string]json.RawMessage{}, Otherwise: "refuse"}
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&settings); err != nil {
		return nil, fmt.Errorf("settings: %w", err)
	}
	if settings.Otherwise != "allow" && settings.Otherwise != "refuse" {
		return nil, errors.New("settings: `otherwise` must be `allow` or `refuse`")
	}
	if settings.Rooms == nil {
		return nil, errors.New("settings: `rooms` must be a table of patterns")
	}
	members := &Members{otherwise: settings.Otherwise == "allow"}
	for pattern, list := range settings.Rooms {
		var entries []string
		if err := json.Unmarshal(list, &entries); err != nil || entries == nil {
			return nil, fmt.Errorf("settings: `rooms.%s` must be a list of users and groups", pattern)
		}
		members.rules = append(members.rules, newRule(pattern, entries))
	}
	// The order of a TOML table is not kept, so it cannot decide between two
	// patterns that match. The one that fixes more of the name does; a tie is
	// broken by the alphabet, only so that all guests decide alike.
	slices.SortFunc(members.rules, func(a, b rule) int {
		if a.fixed != b.fixed {
			return b.fixed - a.fixed
		}
		return slices.Compare(a.pattern, b.pattern)
	})
	return members, nil
}

func newRule(pattern string, entries []string) rule {
	made := rule{
		parts:   strings.Split(pattern, "*"),
		pattern: utf16.Encode([]rune(pattern)),
		users:   map[string]bool{},
		groups:  map[string]bool{},
	}
	made.fixed = len(made.pattern) - (len(made.parts) - 1)
	// An entry is a user or a group, never both: a user whose id happens to be
	// `group:staff` does not become one of the staff.
	for _, entry := range entries {
		if name, ok := strings.CutPrefix(entry, group); ok {
			made.groups[name] = true
		} else {
			made.users[entry] = true
		}
	}
	return made
}

// Admits says whether `user` may join; `info` is the JSON of the connection, or
// empty.
func (m *Members) Admits(room, user, info string) bool {
	if user == "" {
		return false
	}
	found := slices.IndexFunc(m.rules, func(r rule) bool { return matches(r.parts, room) })
	if found < 0 {
		return m.otherwise
	}
	rule := m.rules[found]
	if rule.users[user] {
		return true
	}
	isListed := func(group string) bool { return rule.groups[group] }
	return len(rule.groups) > 0 && slices.ContainsFunc(groupsOf(info), isListed)
}

// matches says whether `room` is the parts in this order, with any run of
// characters between them. Not a regular expression: this needs none.
func matches(parts []string, room string) bool {
	if len(parts) == 1 {
		return room == parts[0]
	}
	rest, ok := strings.CutPrefix(room, parts[0])
	if !ok {
		return false
	}
	last := len(parts) - 1
	for _, part := range parts[1:last] {
		if _, rest, ok = strings.Cut(rest, part); !ok {
			return false
		}
	}
	return strings.HasSuffix(rest, parts[last])
}

// groupsOf are the `groups` of the info; whatever is not as expected gives none.
func groupsOf(info string) []string {
	var table struct {
		Groups json.RawMessage `json:"groups"`
	}
	if json.Unmarshal([]byte(info), &table) != nil {
		return nil
	}
	var list []any
	if json.Unmarshal(table.Groups, &list) != nil {
		return nil
	}
	var groups []string
	for _, item := range list {
		if name, ok := item.(string); ok {
			groups = append(groups, name)
		}
	}
	return groups
}
