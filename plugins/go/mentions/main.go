// Tells mentioned users, and takes announcements to several rooms.
//
// This file speaks with the gateway; text.go reads what people write, settings.go
// the settings, and both are tested without one.
package main

import (
	"slices"
	"strings"

	"wayleave"
	"wayleave/lifecycle"
	"wayleave/route"
)

// Set by the first hook, which the gateway calls before anything else.
var settings Settings

func init() {
	lifecycle.Handle(func(text string) (err error) {
		settings, err = parseSettings(text)
		return err
	})
	route.Handle(deliver)
}

func deliver(sender wayleave.Client, message wayleave.Message) route.Routing {
	text, ok := message.Payload.(wayleave.Text)
	// Most messages mention nobody: they are not parsed.
	if !ok || !mayConcern(string(text)) {
		return route.Pass{}
	}
	written, ok := field(string(text), settings.Field)
	if !ok {
		return route.Pass{}
	}
	if announced, ok := announcement(written); ok {
		return announceTo(sender.User, announced)
	}
	names := mentions(written, sender.User, int(settings.MaxMentions))
	if len(names) == 0 {
		return route.Pass{}
	}
	users := make([]wayleave.Target, len(names))
	for i, name := range names {
		users[i] = wayleave.User(name)
	}
	// The message goes along as it came, byte for byte.
	mention := `{"kind":"mention","room":` + quote(message.Room) + `,"from":` + quote(sender.User) +
		`,"data":` + strings.Trim(string(text), " \t\r\n") + "}"
	return route.Add{delivery(users, mention)}
}

func announceTo(user, text string) route.Routing {
	if !slices.Contains(settings.Announcers, user) {
		return route.Refuse{Code: 403, Reason: "you are not one of the announcers"}
	}
	rooms := make([]wayleave.Target, len(settings.AnnounceRooms))
	for i, name := range settings.AnnounceRooms {
		rooms[i] = wayleave.Room(name)
	}
	announcement := `{"kind":"announcement","from":` + quote(user) + `,"text":` + quote(text) + "}"
	return route.Replace{delivery(rooms, announcement)}
}

// delivery is one for all: the payload is the same, and crosses over only once.
func delivery(to []wayleave.Target, payload string) wayleave.Delivery {
	return wayleave.Delivery{To: to, Payload: wayleave.Text(payload)}
}

func main() {}
