package authorizepublish

import (
	"wayleave"
	"wayleave/internal/abi"
)

// An answer in memory: its case, and what belongs to it.
var answered struct {
	kind    uint32
	refusal abi.Refusal
}

//go:wasmexport wayleave:plugin/authorize-publish@1.0.0#publish
func export(asked abi.Address) abi.Address {
	defer abi.End()
	sender, message := abi.Asked(asked)
	abi.Begin()
	switch answer := handler(sender, message).(type) {
	case Allow:
		answered.kind = 0
	case Refuse:
		answered.kind, answered.refusal = 1, abi.Refuse(wayleave.Refusal(answer))
	default:
		panic("authorizepublish gave no answer")
	}
	return abi.Place(&answered)
}
