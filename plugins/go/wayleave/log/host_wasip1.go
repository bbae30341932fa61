package log

import "wayleave/internal/abi"

//go:wasmimport wayleave:plugin/log@1.0.0 log
func hostLog(level uint32, start abi.Address, length uint32)

func write(level uint32, message string) {
	text := abi.Text(message)
	hostLog(level, text.Start, text.Length)
}

func init() { abi.Say = Error }
