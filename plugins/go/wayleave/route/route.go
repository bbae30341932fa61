// Package route is the hook that is asked for each message after transform. The
// answers of several plugins are joined; one Replace is enough to keep a message
// from its own room.
package route

import "wayleave"

// Routing is the answer: Pass, Add, Replace or Refuse.
type Routing interface{ isRouting() }

// Pass: to the room where it was published.
type Pass struct{}

// Add: to that room, and to these.
type Add []wayleave.Delivery

// Replace: only to these.
type Replace []wayleave.Delivery

// Refuse says no.
type Refuse wayleave.Refusal

func (Pass) isRouting()    {}
func (Add) isRouting()     {}
func (Replace) isRouting() {}
func (Refuse) isRouting()  {}

var handler func(sender wayleave.Client, message wayleave.Message) Routing

// Handle says who answers.
func Handle(route func(sender wayleave.Client, message wayleave.Message) Routing) { handler = route }
