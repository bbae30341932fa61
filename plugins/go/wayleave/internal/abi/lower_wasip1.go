package abi

import (
	"unsafe"

	"wayleave"
)

// Text puts a string.
func Text(text string) Span {
	if text == "" {
		return Span{}
	}
	return Span{keep(unsafe.Pointer(unsafe.StringData(text))), uint32(len(text))}
}

func bytes(bytes []byte) Span {
	if len(bytes) == 0 {
		return Span{}
	}
	return Span{keep(unsafe.Pointer(unsafe.SliceData(bytes))), uint32(len(bytes))}
}

// Put puts a list, whose items become T in memory.
func Put[G, T any](list []G, put func(G) T) Span {
	if len(list) == 0 {
		return Span{}
	}
	items := make([]T, len(list))
	for i, item := range list {
		items[i] = put(item)
	}
	return Span{keep(unsafe.Pointer(unsafe.SliceData(items))), uint32(len(list))}
}

// Attributes puts names with values.
func Attributes(list []wayleave.Attribute) Span {
	return Put(list, func(a wayleave.Attribute) pair { return pair{Text(a.Name), Text(a.Value)} })
}

// Body puts a payload.
func Body(payload wayleave.Payload) Payload {
	switch payload := payload.(type) {
	case wayleave.Text:
		return Payload{0, Text(string(payload))}
	case wayleave.Binary:
		return Payload{1, bytes(payload)}
	}
	panic("an answer or argument lacks its payload")
}

// Maybe puts a payload that there may be.
func Maybe(payload wayleave.Payload) Optional {
	if payload == nil {
		return Optional{}
	}
	return Optional{1, Body(payload)}
}

// Readiness is one in memory.
type Readiness struct {
	kind uint32
	why  Span
}

// Ready puts whether a plugin can work.
func Ready(err error) Readiness {
	if err == nil {
		return Readiness{}
	}
	return Readiness{1, Text(err.Error())}
}

// Refusal is one in memory.
type Refusal struct {
	code      uint32
	reason    Span
	temporary bool
}

// Refuse puts a refusal.
func Refuse(refusal wayleave.Refusal) Refusal {
	return Refusal{refusal.Code, Text(refusal.Reason), refusal.Temporary}
}

type target struct {
	kind uint8
	name Span
}

func putTarget(to wayleave.Target) target {
	switch to := to.(type) {
	case wayleave.Room:
		return target{0, Text(string(to))}
	case wayleave.User:
		return target{1, Text(string(to))}
	case wayleave.Connection:
		return target{2, Text(string(to))}
	case wayleave.Pattern:
		return target{3, Text(string(to))}
	case wayleave.Everyone:
		return target{4, Span{}}
	}
	panic("an answer lacks a target")
}

// Delivery is one in memory.
type Delivery struct {
	to, except Span
	payload    Optional
	attributes Span
}

// Deliver puts a delivery.
func Deliver(delivery wayleave.Delivery) Delivery {
	return Delivery{
		Put(delivery.To, putTarget),
		Put(delivery.Except, putTarget),
		Maybe(delivery.Payload),
		Attributes(delivery.Attributes),
	}
}

// Deliveries puts a list of them.
func Deliveries(list []wayleave.Delivery) Span { return Put(list, Deliver) }

// An action in memory: its case, and room for the largest.
type action struct {
	kind  uint32
	value Delivery
}

func fill[T any](kind uint32, value T) action {
	filled := action{kind: kind}
	*(*T)(unsafe.Pointer(&filled.value)) = value
	return filled
}

type membership struct {
	who  target
	room Span
}

type disconnection struct {
	who    target
	code   uint32
	reason Span
}

func putAction(wanted wayleave.Action) action {
	switch wanted := wanted.(type) {
	case wayleave.Send:
		return fill(0, Deliver(wayleave.Delivery(wanted)))
	case wayleave.Join:
		return fill(1, membership{putTarget(wanted.Who), Text(wanted.Room)})
	case wayleave.Leave:
		return fill(2, membership{putTarget(wanted.Who), Text(wanted.Room)})
	case wayleave.SetInfo:
		return fill(3, pair{Text(wanted.Connection), Text(wanted.Info)})
	case wayleave.Disconnect:
		return fill(4, disconnection{putTarget(wanted.Who), wanted.Code, Text(wanted.Reason)})
	case wayleave.Perform:
		return fill(5, pair{Text(wanted.Name), Text(wanted.Arguments)})
	}
	panic("an answer lacks an action")
}

// Actions puts a list of them.
func Actions(list []wayleave.Action) Span { return Put(list, putAction) }
