// Masks, refuses or drops messages that hold a listed word.
//
// This file speaks with the gateway; censor.go knows words and JSON, settings.go
// the settings, and both are tested without one.
package main

import (
	"wayleave"
	"wayleave/lifecycle"
	"wayleave/log"
	"wayleave/transform"
)

// Set by the first hook, which the gateway calls before anything else.
var moderation struct {
	censor *Censor
	action Action
}

func init() {
	lifecycle.Handle(start)
	transform.Handle(moderate)
}

func start(text string) error {
	settings, err := parseSettings(text)
	if err != nil {
		return err
	}
	moderation.action = settings.Action
	moderation.censor, err = NewCensor(settings.Words)
	return err
}

func moderate(sender wayleave.Client, message wayleave.Message) transform.Verdict {
	json, ok := message.Payload.(wayleave.Text)
	if !ok || !moderation.censor.Suspects(string(json)) {
		return transform.Pass{}
	}
	masked, found, err := moderation.censor.MaskJSON(string(json))
	if err != nil {
		// Half a surrogate pair: valid as JSON, but nobody can read or check it.
		return transform.Refuse{Code: 400, Reason: err.Error()}
	}
	if !found {
		return transform.Pass{}
	}
	log.Info(done[moderation.action] + " message " + message.ID + " of `" + sender.User + "` in `" + message.Room + "`")
	switch moderation.action {
	case Mask:
		return transform.Replace{Payload: wayleave.Text(masked)}
	case Refuse:
		return transform.Refuse{Code: 422, Reason: "the message holds a word that is not allowed here"}
	default:
		return transform.Drop{}
	}
}

func main() {}
