// Package tick is the hook that is asked every period of the config (`tick`), on
// one instance of the cluster at a time: for what no message sets off. A tick
// that could not take place in its time is left out; where another instance
// takes over, two may come sooner or later after each other than the period.
package tick

import "wayleave"

// Moment is when it is asked.
type Moment struct {
	// Now is in milliseconds since 1970-01-01 UTC, by the clock of the instance
	// that asks.
	Now uint64
	// Period is in milliseconds.
	Period     uint64
	Attributes []wayleave.Attribute
}

var handler func(moment Moment) []wayleave.Action

// Handle says who answers.
func Handle(tick func(moment Moment) []wayleave.Action) { handler = tick }
