// Package authenticate is the hook that is asked when a connection says hello,
// before it may do anything else.
package authenticate

import "wayleave"

// Hello is what a connection says first.
type Hello struct {
	Connection string
	// Token is the one that the client sent; empty when it sent none.
	Token string
	// Data is what the client sent along; nil if nothing.
	Data wayleave.Payload
	// Name and Version are the client library's as it gives them.
	Name, Version string
	Attributes    []wayleave.Attribute
}

// Authentication is the answer: Accept, Refuse or Abstain.
type Authentication interface{ isAuthentication() }

// Accept says who it is.
type Accept struct {
	// User is empty for an anonymous connection.
	User string
	// Info is JSON that presence and plugins see with the user; empty for none.
	Info string
	// Rooms are those that the connection is in from the start.
	Rooms []string
	// ExpiresAt is in milliseconds since 1970, when the connection is to end; 0
	// for never.
	ExpiresAt  uint64
	Attributes []wayleave.Attribute
}

// Refuse says no.
type Refuse wayleave.Refusal

// Abstain leaves it to the next plugin, then to tokens and `auth.anonymous`.
type Abstain struct{}

func (Accept) isAuthentication()  {}
func (Refuse) isAuthentication()  {}
func (Abstain) isAuthentication() {}

var handler func(hello Hello) Authentication

// Handle says who answers.
func Handle(authenticate func(hello Hello) Authentication) { handler = authenticate }
