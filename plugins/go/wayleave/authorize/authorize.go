// Package authorize is the hook that is asked for each join of a room, also by
// the server and after a reconnect. Every plugin of the room must allow it.
package authorize

import "wayleave"

// Request is a join.
type Request struct {
	Room string
	// Token is the subscription token that the client sent; empty when it sent none.
	Token string
	// Data is what the client sent along; nil if nothing.
	Data       wayleave.Payload
	Attributes []wayleave.Attribute
}

// Permission is what a member may.
type Permission uint8

const (
	// Configured: as the room's entry in the config says.
	Configured Permission = iota
	Granted
	Denied
)

// Admission is the answer: Allow or Refuse.
type Admission interface{ isAdmission() }

// Allow says what the member may do, and what it is told.
type Allow struct {
	Publish, Presence Permission
	// Info is JSON shown beside the member in presence; empty for none.
	Info string
	// Data is returned to the client with the reply; nil for none.
	Data       wayleave.Payload
	Attributes []wayleave.Attribute
}

// Refuse says no.
type Refuse wayleave.Refusal

func (Allow) isAdmission()  {}
func (Refuse) isAdmission() {}

var handler func(who wayleave.Client, request Request) Admission

// Handle says who answers.
func Handle(join func(who wayleave.Client, request Request) Admission) { handler = join }
