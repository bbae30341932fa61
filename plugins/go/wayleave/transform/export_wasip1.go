package transform

import (
	"wayleave"
	"wayleave/internal/abi"
)

// An answer in memory: its case, and one of the two.
var (
	replaced struct {
		kind  uint32
		value abi.Payload
	}
	refused struct {
		kind  uint32
		value abi.Refusal
	}
)

//go:wasmexport wayleave:plugin/transform@1.0.0#transform
func export(asked abi.Address) abi.Address {
	defer abi.End()
	sender, message := abi.Asked(asked)
	abi.Begin()
	switch answer := handler(sender, message).(type) {
	case Pass:
		refused.kind = 0
	case Replace:
		replaced.kind, replaced.value = 1, abi.Body(answer.Payload)
		return abi.Place(&replaced)
	case Drop:
		refused.kind = 2
	case Refuse:
		refused.kind, refused.value = 3, abi.Refuse(wayleave.Refusal(answer))
	default:
		panic("transform gave no answer")
	}
	return abi.Place(&refused)
}
