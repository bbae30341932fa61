package secrets

import "wayleave/internal/abi"

//go:wasmimport wayleave:plugin/secrets@1.0.0 get
func hostGet(name abi.Address, nameLength uint32, result abi.Address)

var found struct {
	kind  uint8
	value abi.Span
}

func get(name string) (string, bool) {
	text := abi.Text(name)
	hostGet(text.Start, text.Length, abi.Place(&found))
	if found.kind != 0 {
		return "", false
	}
	value := found.value.String()
	abi.Taken()
	return value, true
}
