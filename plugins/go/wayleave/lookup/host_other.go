//go:build !wasip1

package lookup

func count(string) (uint32, uint32, error)     { return 0, 0, ErrUnavailable }
func members(string, uint32) ([]Member, error) { return nil, ErrUnavailable }
func connections(string) ([]string, error)     { return nil, ErrUnavailable }
