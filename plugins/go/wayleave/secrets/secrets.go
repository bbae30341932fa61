// Package secrets is values that the operator keeps outside of the config's
// `settings`: from the environment or from files. Grant `secrets`; the config
// names each. In tests there are none but those of Set.
package secrets

// Get returns a secret; false: the config gives this plugin none of that name.
func Get(name string) (string, bool) { return get(name) }
