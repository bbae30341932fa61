package main

import (
	"strings"
	"testing"

	"wayleave"
	"wayleave/call"
)

func TestItGreets(t *testing.T) {
	if err := start(`{"greeting":"good day"}`); err != nil {
		t.Fatal(err)
	}
	reply, ok := answer(wayleave.Client{User: "ada"}, "greet", wayleave.Text("null")).(call.Reply)
	if !ok || reply.Payload != wayleave.Text(`"good day, ada"`) {
		t.Errorf("%#v", reply)
	}
}

func TestAMethodThatItDoesNotKnowIsLeftToOthers(t *testing.T) {
	if _, ok := answer(wayleave.Client{}, "other", wayleave.Text("null")).(call.Unknown); !ok {
		t.Error("it answered")
	}
}

func TestMistakesInTheSettingsAreNamed(t *testing.T) {
	if err := start(`{"greting":"hi"}`); err == nil || !strings.Contains(err.Error(), "greting") {
		t.Error(err)
	}
}
