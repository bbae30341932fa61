package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"wayleave"
)

// Settings of the plugin, checked: what is wrong with them is better told when
// the plugin is loaded than at the first message.
type Settings struct {
	Greeting string `json:"greeting"`
}

func parseSettings(text string) (Settings, error) {
	settings := Settings{Greeting: "hello"}
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&settings); err != nil {
		return settings, fmt.Errorf("settings: %w", err)
	}
	return settings, nil
}

func greeting(user string) wayleave.Payload {
	if user == "" {
		user = "stranger"
	}
	text, err := json.Marshal(settings.Greeting + ", " + user)
	if err != nil {
		panic(err)
	}
	return wayleave.Text(text)
}
