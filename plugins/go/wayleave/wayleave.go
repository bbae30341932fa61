// Package wayleave is what plugins in Go are written with.
//
// Each interface between the gateway and its plugins is a package of its own:
// a plugin has the hooks whose packages it imports, and needs the grants of
// those that it calls. Nothing else has to be declared.
//
//   - Hooks: lifecycle, selftest, authenticate, authorize, authorizepublish,
//     transform, route, observe, tick, call. Each has a function Handle.
//   - Grants: log, kv, lookup, clock, random, metrics, secrets, http.
//
// A guest is one live copy of a plugin. There are several of them at once and
// any call may be served by a fresh one, so a guest's memory is a cache and
// never state: keep state in kv.
package wayleave

// Attribute is a name with a value. What the gateway will add without breaking
// plugins, it adds as attributes.
type Attribute struct{ Name, Value string }

// Payload is the body of a message: Text or Binary. Where there may be none it
// is nil.
type Payload interface{ isPayload() }

// Text is what clients that speak JSON send: one valid JSON value, and it must
// be so in answers too.
type Text string

// Binary is any bytes.
type Binary []byte

func (Text) isPayload()   {}
func (Binary) isPayload() {}

// Client is the connection on whose behalf a hook is asked.
type Client struct {
	// Connection names it among all instances.
	Connection string
	// User is the authenticated user; empty for an anonymous one.
	User string
	// Info is what authentication attached to the connection: JSON, or empty.
	Info       string
	Attributes []Attribute
}

// Message is one on its way into a room.
type Message struct {
	// ID is unique among all instances.
	ID         string
	Room       string
	Payload    Payload
	Attributes []Attribute
}

// Target is who is to receive, or to be acted upon: a Room, User, Connection,
// Pattern or Everyone.
type Target interface{ isTarget() }

// Room is all who are in the room of that name.
type Room string

// User is all connections of the user of that id.
type User string

// Connection is the one of that id.
type Connection string

// Pattern is all rooms whose names match, `*` standing for any run of
// characters; users' own rooms are not among them.
type Pattern string

// Everyone is all connections.
type Everyone struct{}

func (Room) isTarget()       {}
func (User) isTarget()       {}
func (Connection) isTarget() {}
func (Pattern) isTarget()    {}
func (Everyone) isTarget()   {}

// Delivery is a payload on its way to some targets. A connection that several
// of them reach receives it once, through the first that does.
type Delivery struct {
	To []Target
	// Except: whoever one of these reaches receives nothing.
	Except []Target
	// Payload: nil stands for the payload of the message in hand.
	Payload    Payload
	Attributes []Attribute
}

// Refusal is a "no" with its reason, sent to the client as an error reply.
type Refusal struct {
	// Code: 400 to 1999 are the plugin's own; 0 stands for 103, permission denied.
	Code uint32
	// Reason is for people; at most 255 bytes are passed on.
	Reason string
	// Temporary: the client may try the same again later.
	Temporary bool
}

// Action is what a plugin wants done besides its answer: Send, Join, Leave,
// SetInfo, Disconnect or Perform. The gateway performs actions in order. What
// they send passes no hooks; a join is put to the room's authorize like any other.
type Action interface{ isAction() }

// Send is a delivery of its own.
type Send Delivery

// Join puts a Connection, or a User with all devices, into a room.
type Join struct {
	Who  Target
	Room string
}

// Leave takes them out.
type Leave struct {
	Who  Target
	Room string
}

// SetInfo replaces the info of a connection from now on.
type SetInfo struct {
	Connection string
	// Info is JSON, or empty for none.
	Info string
}

// Disconnect ends connections.
type Disconnect struct {
	Who Target
	// Code: 4000 to 4499, and the client reconnects; 4500 to 4999, and it stays
	// away. 0 stands for 3503, force disconnect.
	Code   uint32
	Reason string
}

// Perform is something by its name, with arguments as the method of that name
// of the server API takes them, a JSON object: `record` writes a document of a
// room. A name or arguments that the gateway does not know are a failure.
type Perform struct{ Name, Arguments string }

func (Send) isAction()       {}
func (Join) isAction()       {}
func (Leave) isAction()      {}
func (SetInfo) isAction()    {}
func (Disconnect) isAction() {}
func (Perform) isAction()    {}
