// Package clock is the time. Grant `clock`.
//
// Whoever imports it has the right time in package time as well, as of the
// moment when a hook was called. Without it, time.Now() begins in 1970.
package clock

import "time"

// Now is the time.
func Now() time.Time { return time.UnixMilli(int64(now())) }

// Monotonic is the time since an unspecified start; it never goes back.
func Monotonic() time.Duration { return time.Duration(monotonic()) }
