package lookup

import "wayleave/internal/abi"

//go:wasmimport wayleave:plugin/lookup@1.0.0 count
func hostCount(room abi.Address, roomLength uint32, result abi.Address)

//go:wasmimport wayleave:plugin/lookup@1.0.0 members
func hostMembers(room abi.Address, roomLength uint32, limit uint32, result abi.Address)

//go:wasmimport wayleave:plugin/lookup@1.0.0 connections
func hostConnections(user abi.Address, userLength uint32, result abi.Address)

// Results in memory.
var (
	tally struct {
		kind               uint8
		connections, users uint32
	}
	listed struct {
		kind uint8
		list abi.Span
	}
)

type member struct{ connection, user, info abi.Span }

func count(room string) (uint32, uint32, error) {
	name := abi.Text(room)
	hostCount(name.Start, name.Length, abi.Place(&tally))
	if tally.kind != 0 {
		return 0, 0, ErrUnavailable
	}
	return tally.connections, tally.users, nil
}

func members(room string, limit uint32) ([]Member, error) {
	name := abi.Text(room)
	hostMembers(name.Start, name.Length, limit, abi.Place(&listed))
	return take(func(m member) Member { return Member{m.connection.String(), m.user.String(), m.info.String()} })
}

func connections(user string) ([]string, error) {
	name := abi.Text(user)
	hostConnections(name.Start, name.Length, abi.Place(&listed))
	return take(abi.Span.String)
}

func take[T, G any](item func(T) G) ([]G, error) {
	if listed.kind != 0 {
		return nil, ErrUnavailable
	}
	list := abi.List(listed.list, item)
	abi.Taken()
	return list, nil
}
