package metrics

import "wayleave/internal/abi"

//go:wasmimport wayleave:plugin/metrics@1.0.0 count
func hostCount(name abi.Address, nameLength uint32, by uint64)

//go:wasmimport wayleave:plugin/metrics@1.0.0 gauge
func hostGauge(name abi.Address, nameLength uint32, value float64)

//go:wasmimport wayleave:plugin/metrics@1.0.0 observe
func hostObserve(name abi.Address, nameLength uint32, seconds float64)

func count(name string, by uint64) {
	text := abi.Text(name)
	hostCount(text.Start, text.Length, by)
}

func gauge(name string, value float64) {
	text := abi.Text(name)
	hostGauge(text.Start, text.Length, value)
}

func observe(name string, seconds float64) {
	text := abi.Text(name)
	hostObserve(text.Start, text.Length, seconds)
}
