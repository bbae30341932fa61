package clock

import "wayleave/internal/abi"

//go:wasmimport wayleave:plugin/clock@1.0.0 now
func hostNow() uint64

//go:wasmimport wayleave:plugin/clock@1.0.0 monotonic
func hostMonotonic() uint64

// Go reads its clock also where the gateway cannot be asked. So the clock that
// Go has, which the gateway puts under a core module, only goes by what it is told.
//
//go:wasmimport wasi_snapshot_preview1 wayleave_clock_set
func setClock(nanoseconds uint64)

func now() uint64       { return hostNow() }
func monotonic() uint64 { return hostMonotonic() }

func tell() { setClock(hostNow() * 1_000_000) }

func init() {
	abi.Tell = tell
	tell()
}
