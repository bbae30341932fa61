// Package selftest is the hook that is asked once for each new generation, after
// lifecycle, before it goes live.
package selftest

var handler func() error

// Handle says who answers; an error says what does not work.
func Handle(run func() error) { handler = run }
