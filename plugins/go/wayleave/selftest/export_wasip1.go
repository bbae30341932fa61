package selftest

import "wayleave/internal/abi"

var answer abi.Readiness

//go:wasmexport wayleave:plugin/self-test@1.0.0#run
func export() abi.Address {
	defer abi.End()
	abi.Begin()
	answer = abi.Ready(handler())
	return abi.Place(&answer)
}
