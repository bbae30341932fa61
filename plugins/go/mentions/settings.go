package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Settings of the plugin, checked.
type Settings struct {
	// Field is where in the payload people write.
	Field         string   `json:"field"`
	MaxMentions   uint32   `json:"max_mentions"`
	Announcers    []string `json:"announcers"`
	AnnounceRooms []string `json:"announce_rooms"`
}

func parseSettings(text string) (Settings, error) {
	settings := Settings{Field: "text", MaxMentions: 10}
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&settings); err != nil {
		return settings, fmt.Errorf("settings: %w", err)
	}
	if slices.Contains(settings.Announcers, "") {
		return settings, errors.New("settings: an empty name in `announcers` would let anonymous users announce")
	}
	if len(settings.AnnounceRooms) == 0 && len(settings.Announcers) > 0 {
		return settings, errors.New("settings: `announcers` need `announce_rooms`")
	}
	return settings, nil
}
