package kv

import (
	"wayleave"
	"wayleave/internal/abi"
)

//go:wasmimport wayleave:plugin/kv@1.0.0 get
func hostGet(key abi.Address, keyLength uint32, result abi.Address)

//go:wasmimport wayleave:plugin/kv@1.0.0 set
func hostSet(key abi.Address, keyLength uint32, kind uint32, value abi.Address, valueLength uint32, ttl uint64) uint32

//go:wasmimport wayleave:plugin/kv@1.0.0 delete
func hostDelete(key abi.Address, keyLength uint32) uint32

//go:wasmimport wayleave:plugin/kv@1.0.0 increment
func hostIncrement(key abi.Address, keyLength uint32, by int64, ttl uint64, result abi.Address)

// Results in memory.
var (
	found struct {
		kind  uint8
		value abi.Payload
	}
	counted struct {
		kind  uint8
		value int64
	}
)

func get(key string) (wayleave.Payload, error) {
	name := abi.Text(key)
	hostGet(name.Start, name.Length, abi.Place(&found))
	switch found.kind {
	case 0:
		value := found.value.Take()
		abi.Taken()
		return value, nil
	case 1:
		return nil, nil
	}
	return nil, ErrUnavailable
}

func set(key string, value wayleave.Payload, ttl uint64) error {
	name, body := abi.Text(key), abi.Body(value)
	stored := hostSet(name.Start, name.Length, uint32(body.Case), body.Body.Start, body.Body.Length, ttl)
	return []error{nil, ErrQuota, ErrTooLarge, ErrUnavailable}[stored]
}

func remove(key string) (bool, error) {
	name := abi.Text(key)
	deleted := hostDelete(name.Start, name.Length)
	if deleted == 2 {
		return false, ErrUnavailable
	}
	return deleted == 0, nil
}

func increment(key string, by int64, ttl uint64) (int64, error) {
	name := abi.Text(key)
	hostIncrement(name.Start, name.Length, by, ttl, abi.Place(&counted))
	if counted.kind == 0 {
		return counted.value, nil
	}
	return 0, []error{ErrNotANumber, ErrQuota, ErrTooLarge, ErrUnavailable}[counted.kind-1]
}
