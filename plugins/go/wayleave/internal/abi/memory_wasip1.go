// Package abi carries values across the border of the plugin, in the form that
// the component model has for them in memory (its canonical ABI).
//
// Nothing is copied twice: what the gateway writes becomes Go's strings where it
// lies, and it reads answers where Go has them. An address in such memory is 32
// bits and no pointer, so Go's collector does not see it; hence what lies behind
// one is noted, in `lent` or in `kept`, for as long as only an address leads there.
package abi

import "unsafe"

// Address is a place in memory, as the gateway knows it.
type Address = uint32

// Blocks that the gateway asked for, until what it wrote there has been taken.
var lent []unsafe.Pointer

// What an answer or an argument consists of, until the next call of a hook.
var kept []unsafe.Pointer

// The gateway asks for memory while it passes arguments or results. Nothing may
// be asked of it in here; Go itself may collect garbage, for which it reads the
// clock, so that clock must be none of the gateway's.
//
//go:wasmexport cabi_realloc
func realloc(old Address, oldSize, align, size uint32) Address {
	if size == 0 {
		return align
	}
	// Of words, so that it is aligned for everything.
	block := unsafe.Pointer(unsafe.SliceData(make([]uint64, (size+7)/8)))
	lent = append(lent, block)
	if old != 0 {
		copy(unsafe.Slice((*byte)(block), size), unsafe.Slice((*byte)(At(old)), oldSize))
	}
	return address(block)
}

// Taken says that all that the gateway wrote has become Go's values.
func Taken() {
	clear(lent)
	lent = lent[:0]
}

// At is the memory at an address.
func At(address Address) unsafe.Pointer { return unsafe.Add(nil, address) }

// Place is the address of something that is kept otherwise.
func Place[T any](value *T) Address { return address(unsafe.Pointer(value)) }

func address(pointer unsafe.Pointer) Address { return Address(uintptr(pointer)) }

func keep(pointer unsafe.Pointer) Address {
	kept = append(kept, pointer)
	return address(pointer)
}
