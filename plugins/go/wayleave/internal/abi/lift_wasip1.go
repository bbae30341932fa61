package abi

import (
	"unsafe"

	"wayleave"
)

// Span is a string or a list in memory.
type Span struct {
	Start  Address
	Length uint32
}

// Payload is one in memory.
type Payload struct {
	Case uint8
	Body Span
}

// Optional is a payload that there may be, in memory.
type Optional struct {
	Is      uint8
	Payload Payload
}

// Client is one in memory.
type Client struct{ Connection, User, Info, Attributes Span }

// Message is one in memory.
type Message struct {
	ID, Room   Span
	Payload    Payload
	Attributes Span
}

func (s Span) String() string {
	return unsafe.String((*byte)(At(s.Start)), s.Length)
}

// Bytes are those of a list of them.
func (s Span) Bytes() []byte {
	return unsafe.Slice((*byte)(At(s.Start)), s.Length)
}

// List takes a list, whose items are T in memory.
func List[T, G any](span Span, take func(T) G) []G {
	if span.Length == 0 {
		return nil
	}
	list := make([]G, span.Length)
	for i, item := range unsafe.Slice((*T)(At(span.Start)), span.Length) {
		list[i] = take(item)
	}
	return list
}

type pair struct{ name, value Span }

// Attributes takes names with values.
func (s Span) Attributes() []wayleave.Attribute {
	return List(s, func(p pair) wayleave.Attribute {
		return wayleave.Attribute{Name: p.name.String(), Value: p.value.String()}
	})
}

// Take makes Go's value of it.
func (p Payload) Take() wayleave.Payload {
	if p.Case == 0 {
		return wayleave.Text(p.Body.String())
	}
	return wayleave.Binary(p.Body.Bytes())
}

// Take makes Go's value of it.
func (o Optional) Take() wayleave.Payload {
	if o.Is == 0 {
		return nil
	}
	return o.Payload.Take()
}

// Take makes Go's value of it.
func (c Client) Take() wayleave.Client {
	return wayleave.Client{
		Connection: c.Connection.String(),
		User:       c.User.String(),
		Info:       c.Info.String(),
		Attributes: c.Attributes.Attributes(),
	}
}

// Take makes Go's value of it.
func (m Message) Take() wayleave.Message {
	return wayleave.Message{
		ID:         m.ID.String(),
		Room:       m.Room.String(),
		Payload:    m.Payload.Take(),
		Attributes: m.Attributes.Attributes(),
	}
}

// Asked takes the arguments of hooks that are asked about a message. They are
// too many to be passed one by one.
func Asked(arguments Address) (wayleave.Client, wayleave.Message) {
	asked := (*struct {
		sender  Client
		message Message
	})(At(arguments))
	return asked.sender.Take(), asked.message.Take()
}

// FlatOptional takes a payload that there may be, passed one by one.
func FlatOptional(is, kind uint32, start Address, length uint32) wayleave.Payload {
	return Optional{uint8(is), Payload{uint8(kind), Span{start, length}}}.Take()
}
