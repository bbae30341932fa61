package abi

import (
	"runtime/debug"
	"syscall"
)

// Say writes what went wrong into the log; set by package log, so that a plugin
// without it needs no grant.
var Say func(text string)

// Tell tells Go what time it is; set by package clock.
var Tell func()

// Begin is called by each hook when it has taken its arguments.
func Begin() {
	Taken()
	clear(kept)
	kept = kept[:0]
	if Tell != nil {
		Tell()
	}
}

// End is deferred by each hook. A panic ends the guest, as it must; Go alone
// would tell of it in many small pieces.
func End() {
	if why := recover(); why != nil {
		if Say != nil {
			Say("panic: " + describe(why) + "\n" + string(debug.Stack()))
		}
		syscall.Exit(2)
	}
}

func describe(why any) string {
	switch why := why.(type) {
	case error:
		return why.Error()
	case string:
		return why
	case interface{ String() string }:
		return why.String()
	}
	return "with a value that is no text"
}
