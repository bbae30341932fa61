// Package metrics is the plugin's own figures among the gateway's metrics. Grant
// `metrics`.
//
// A name has the letters `a` to `z`, digits and `_`, at most 64 of them, and is
// of the kind that its first use gave it. Names beyond the plugin's budget and
// uses of another kind are dropped and counted. In tests nobody counts.
package metrics

import "time"

// Count adds to a counter.
func Count(name string, by uint64) { count(name, by) }

// Gauge sets a gauge.
func Gauge(name string, value float64) { gauge(name, value) }

// Observe adds a sample to a histogram.
func Observe(name string, took time.Duration) { observe(name, took.Seconds()) }
