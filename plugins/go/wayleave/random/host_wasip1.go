package random

import "wayleave/internal/abi"

//go:wasmimport wayleave:plugin/random@1.0.0 bytes
func hostBytes(length uint32, result abi.Address)

//go:wasmimport wayleave:plugin/random@1.0.0 number
func hostNumber() uint64

var result abi.Span

func bytes(length uint32) []byte {
	hostBytes(length, abi.Place(&result))
	bytes := result.Bytes()
	abi.Taken()
	return bytes
}

func number() uint64 { return hostNumber() }

// That the import is there tells the gateway to put it under crypto/rand too.
func init() { number() }
