// Package lookup says who is here, on all instances. Grant `lookup`.
//
// ErrUnavailable says that the instances cannot be asked now, which is not the
// same as nobody. In tests it is always so.
package lookup

import "errors"

// ErrUnavailable: the instances cannot be asked now.
var ErrUnavailable = errors.New("lookup: unavailable")

// Member is a connection in a room.
type Member struct{ Connection, User, Info string }

// Count returns how many connections and different users are in a room.
func Count(room string) (connections, users uint32, err error) { return count(room) }

// Members returns at most `limit` members of a room, at most 1,000.
func Members(room string, limit uint32) ([]Member, error) { return members(room, limit) }

// Connections returns those of a user.
func Connections(user string) ([]string, error) { return connections(user) }
