package lifecycle

import "wayleave/internal/abi"

var answer abi.Readiness

//go:wasmexport wayleave:plugin/lifecycle@1.0.0#init
func export(settings abi.Address, length uint32) abi.Address {
	defer abi.End()
	text := abi.Span{Start: settings, Length: length}.String()
	abi.Begin()
	answer = abi.Ready(handler(text))
	return abi.Place(&answer)
}
