package log

import "wayleave/internal/abi"

//go:wasmimport wayleave:plugin/log@1.0.0 log
func hostLog(level uint32, start abi.Address, length uint32)

func write(level uint32, message string) {
	text := abi.Text(message)
	hostLog(level, text.Start, text.Length)
}

// What is printed comes in pieces; the gateway makes lines of them in here.
//
//go:wasmimport wasi_snapshot_preview1 wayleave_line_buffer
func setLine(start abi.Address, length uint32)

var line [1024]byte

func init() {
	abi.Say = Error
	setLine(abi.Place(&line), uint32(len(line)))
}
