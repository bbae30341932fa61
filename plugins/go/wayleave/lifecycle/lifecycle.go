// Package lifecycle is the hook that is asked once for each guest, before any other.
package lifecycle

var handler func(settings string) error

// Handle says who answers. `settings` is the plugin's `settings` table of the
// config, as JSON; an error says why the plugin cannot work with these.
func Handle(init func(settings string) error) { handler = init }
