package route

import (
	"wayleave"
	"wayleave/internal/abi"
)

// An answer in memory: its case, and one of the two.
var (
	routed struct {
		kind  uint32
		value abi.Span
	}
	refused struct {
		kind  uint32
		value abi.Refusal
	}
)

//go:wasmexport wayleave:plugin/route@1.0.0#route
func export(asked abi.Address) abi.Address {
	defer abi.End()
	sender, message := abi.Asked(asked)
	abi.Begin()
	switch answer := handler(sender, message).(type) {
	case Pass:
		refused.kind = 0
	case Add:
		routed.kind, routed.value = 1, abi.Deliveries(answer)
		return abi.Place(&routed)
	case Replace:
		routed.kind, routed.value = 2, abi.Deliveries(answer)
		return abi.Place(&routed)
	case Refuse:
		refused.kind, refused.value = 3, abi.Refuse(wayleave.Refusal(answer))
	default:
		panic("route gave no answer")
	}
	return abi.Place(&refused)
}
