package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// Action is what becomes of a message that holds a listed word.
type Action string

const (
	Mask   Action = "mask"
	Refuse Action = "refuse"
	Drop   Action = "drop"
)

var done = map[Action]string{Mask: "masked", Refuse: "refused", Drop: "dropped"}

// Settings of the plugin, checked: what is wrong with them is better told when
// the plugin is loaded than at the first message.
type Settings struct {
	Words  []string `json:"words"`
	Action Action   `json:"action"`
}

func parseSettings(text string) (Settings, error) {
	settings := Settings{Action: Mask}
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&settings); err != nil {
		return settings, fmt.Errorf("settings: %w", err)
	}
	if settings.Words == nil {
		return settings, errors.New("settings: `words` must be a list of texts")
	}
	if done[settings.Action] == "" {
		return settings, errors.New("settings: `action` must be one of mask, refuse, drop")
	}
	return settings, nil
}
