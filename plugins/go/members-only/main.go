// Lets the users and groups that its settings list into their rooms.
//
// This file speaks with the gateway; members.go decides and is tested without one.
package main

import (
	"wayleave"
	"wayleave/authorize"
	"wayleave/lifecycle"
)

// Set by the first hook, which the gateway calls before anything else.
var members *Members

func init() {
	lifecycle.Handle(func(settings string) (err error) {
		members, err = NewMembers(settings)
		return err
	})
	authorize.Handle(join)
}

func join(who wayleave.Client, request authorize.Request) authorize.Admission {
	if members.Admits(request.Room, who.User, who.Info) {
		// What a member may do is left to the room's entry in the config.
		return authorize.Allow{Publish: authorize.Configured, Presence: authorize.Configured}
	}
	// Code 0 stands for the protocol's own "permission denied". The reason is the
	// same for unknown rooms, so that it does not tell which ones there are.
	return authorize.Refuse{Reason: "members only"}
}

func main() {}
