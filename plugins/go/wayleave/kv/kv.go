// Package kv is the plugin's own key-value store, shared by all its guests on all
// instances. Grant `kv`.
//
// Instances share it over the network: it may be ErrUnavailable, and what a
// change then came to is not known. A guard that cannot read refuses.
//
// In tests it is a map, which lasts as long as the test's process.
package kv

import (
	"errors"
	"time"

	"wayleave"
)

var (
	// ErrUnavailable: the store cannot be reached now.
	ErrUnavailable = errors.New("kv: unavailable")
	// ErrQuota: the plugin's quota is used up; nothing was changed.
	ErrQuota = errors.New("kv: the quota is used up")
	// ErrTooLarge: the key or the value is larger than allowed; nothing was changed.
	ErrTooLarge = errors.New("kv: too large")
	// ErrNotANumber: the key holds something else than a whole number as text.
	ErrNotANumber = errors.New("kv: not a number")
)

// Get returns what a key holds; nil if there is no such key.
func Get(key string) (wayleave.Payload, error) { return get(key) }

// Set stores a value, for a time, or with 0 until it is deleted.
func Set(key string, value wayleave.Payload, ttl time.Duration) error {
	return set(key, value, uint64(ttl.Milliseconds()))
}

// Delete removes a key; false: there was none.
func Delete(key string) (bool, error) { return remove(key) }

// Increment adds to a whole number, atomically, and returns it; a missing key
// counts as 0. `ttl` applies when the key is created.
func Increment(key string, by int64, ttl time.Duration) (int64, error) {
	return increment(key, by, uint64(ttl.Milliseconds()))
}
