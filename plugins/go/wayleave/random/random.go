// Package random is randomness fit for secrets. Grant `random`.
//
// Whoever imports it may use crypto/rand, and math/rand begins differently in
// each guest. Without it crypto/rand fails, and math/rand and the order of maps
// are alike in all guests.
package random

// Bytes returns so many random bytes, at most 4,096.
func Bytes(length int) []byte { return bytes(uint32(length)) }

// Number returns any number.
func Number() uint64 { return number() }
