// Package call is the hook that answers calls (rpc) of clients. A message that
// wants no answer (send) comes with an empty method, and only the actions of its
// reply count.
package call

import "wayleave"

// Answer is one of Reply, Refuse or Unknown.
type Answer interface{ isAnswer() }

// Reply is what the client gets, and what is to be done besides.
type Reply struct {
	Payload wayleave.Payload
	Actions []wayleave.Action
}

// Refuse says no.
type Refuse wayleave.Refusal

// Unknown: not a method of this plugin; the next one is asked.
type Unknown struct{}

func (Reply) isAnswer()   {}
func (Refuse) isAnswer()  {}
func (Unknown) isAnswer() {}

var handler func(caller wayleave.Client, method string, payload wayleave.Payload) Answer

// Handle says who answers.
func Handle(call func(caller wayleave.Client, method string, payload wayleave.Payload) Answer) {
	handler = call
}
