//go:build !wasip1

package clock

import "time"

var started = time.Now()

func now() uint64       { return uint64(time.Now().UnixMilli()) }
func monotonic() uint64 { return uint64(time.Since(started)) }
