// A plugin with every hook, each ready to be filled in; as it is, it changes
// nothing. Remove the hooks that it has no use for, with their imports: a plugin
// has the hooks whose packages it imports.
//
// This file speaks with the gateway, but for `go test` it is Go like any other.
package main

import (
	"wayleave"
	"wayleave/authenticate"
	"wayleave/authorize"
	"wayleave/authorizepublish"
	"wayleave/call"
	"wayleave/lifecycle"
	"wayleave/log"
	"wayleave/observe"
	"wayleave/route"
	"wayleave/selftest"
	"wayleave/tick"
	"wayleave/transform"
)

// Set by the first hook, which the gateway calls before anything else. Guests come
// and go, so this is a cache: what is to last belongs into package kv.
var settings Settings

func init() {
	lifecycle.Handle(start)
	selftest.Handle(test)
	authenticate.Handle(identify)
	authorize.Handle(join)
	authorizepublish.Handle(publish)
	transform.Handle(change)
	route.Handle(deliver)
	observe.Handle(notice)
	tick.Handle(work)
	call.Handle(answer)
}

func start(text string) (err error) {
	settings, err = parseSettings(text)
	return err
}

// Asked once for each new generation: with an error, the one that is live stays.
func test() error { return nil }

// Who is it? authenticate.Accept, Refuse, or leave it to the next.
func identify(hello authenticate.Hello) authenticate.Authentication {
	return authenticate.Abstain{}
}

// May it join the room? authorize.Allow or Refuse.
func join(who wayleave.Client, request authorize.Request) authorize.Admission {
	// What a member may do is left to the room's entry in the config.
	return authorize.Allow{Publish: authorize.Configured, Presence: authorize.Configured}
}

// May it publish this? authorizepublish.Allow or Refuse.
func publish(sender wayleave.Client, message wayleave.Message) authorizepublish.Permit {
	return authorizepublish.Allow{}
}

// What becomes of the message? transform.Pass, Replace, Drop or Refuse.
func change(sender wayleave.Client, message wayleave.Message) transform.Verdict {
	return transform.Pass{}
}

// Who gets it? route.Pass, Add, Replace or Refuse.
func deliver(sender wayleave.Client, message wayleave.Message) route.Routing {
	return route.Pass{}
}

// Something happened: `connected`, `disconnected`, `joined` or `left`; more will
// come, and what is not known is to be ignored.
func notice(event observe.Event) []wayleave.Action { return nil }

// A period of the config's `tick` is over.
func work(moment tick.Moment) []wayleave.Action { return nil }

// A client calls (rpc), or sends, with an empty method.
func answer(caller wayleave.Client, method string, payload wayleave.Payload) call.Answer {
	switch method {
	case "greet":
		log.Info("greeting `" + caller.User + "`")
		return call.Reply{Payload: greeting(caller.User)}
	default:
		return call.Unknown{}
	}
}

func main() {}
