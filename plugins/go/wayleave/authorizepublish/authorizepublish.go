// Package authorizepublish is the hook that is asked for each message before
// transform.
package authorizepublish

import "wayleave"

// Permit is the answer: Allow or Refuse.
type Permit interface{ isPermit() }

// Allow lets it pass.
type Allow struct{}

// Refuse says no.
type Refuse wayleave.Refusal

func (Allow) isPermit()  {}
func (Refuse) isPermit() {}

var handler func(sender wayleave.Client, message wayleave.Message) Permit

// Handle says who answers.
func Handle(publish func(sender wayleave.Client, message wayleave.Message) Permit) { handler = publish }
