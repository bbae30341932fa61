// Package observe is the hook that is told after something happened. It decides
// nothing, so an event that an older plugin does not know is one to ignore.
package observe

import "wayleave"

// Event is something that happened.
type Event struct {
	// Kind is `connected`, `disconnected`, `joined` or `left`; more will come.
	Kind string
	Who  wayleave.Client
	// Room is that of `joined` and `left`; empty otherwise.
	Room       string
	Attributes []wayleave.Attribute
}

var handler func(event Event) []wayleave.Action

// Handle says who answers.
func Handle(observe func(event Event) []wayleave.Action) { handler = observe }
