// Package transform is the hook that is asked for each message of a room, in the
// order of the room's plugins; each sees what the one before it made.
package transform

import "wayleave"

// Verdict is the answer: Pass, Replace, Drop or Refuse.
type Verdict interface{ isVerdict() }

// Pass leaves the message as it is.
type Pass struct{}

// Replace puts another payload in the place of the message's.
type Replace struct{ Payload wayleave.Payload }

// Drop: nobody receives it; the sender is not told.
type Drop struct{}

// Refuse says no.
type Refuse wayleave.Refusal

func (Pass) isVerdict()    {}
func (Replace) isVerdict() {}
func (Drop) isVerdict()    {}
func (Refuse) isVerdict()  {}

var handler func(sender wayleave.Client, message wayleave.Message) Verdict

// Handle says who answers.
func Handle(transform func(sender wayleave.Client, message wayleave.Message) Verdict) {
	handler = transform
}
