package tick

import "wayleave/internal/abi"

var answer abi.Span

//go:wasmexport wayleave:plugin/tick@1.0.0#tick
func export(now, period uint64, attributes abi.Address, attributesLength uint32) abi.Address {
	defer abi.End()
	moment := Moment{
		Now:        now,
		Period:     period,
		Attributes: abi.Span{Start: attributes, Length: attributesLength}.Attributes(),
	}
	abi.Begin()
	answer = abi.Actions(handler(moment))
	return abi.Place(&answer)
}
