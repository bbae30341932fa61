package call

import (
	"wayleave"
	"wayleave/internal/abi"
)

// An answer in memory: its case, and one of the two.
var (
	replied struct {
		kind    uint32
		payload abi.Payload
		actions abi.Span
	}
	refused struct {
		kind  uint32
		value abi.Refusal
	}
)

//go:wasmexport wayleave:plugin/call@1.0.0#call
func export(
	connection abi.Address, connectionLength uint32,
	user abi.Address, userLength uint32,
	info abi.Address, infoLength uint32,
	attributes abi.Address, attributesLength uint32,
	method abi.Address, methodLength uint32,
	kind uint32, body abi.Address, bodyLength uint32,
) abi.Address {
	defer abi.End()
	caller := wayleave.Client{
		Connection: abi.Span{Start: connection, Length: connectionLength}.String(),
		User:       abi.Span{Start: user, Length: userLength}.String(),
		Info:       abi.Span{Start: info, Length: infoLength}.String(),
		Attributes: abi.Span{Start: attributes, Length: attributesLength}.Attributes(),
	}
	name := abi.Span{Start: method, Length: methodLength}.String()
	payload := abi.FlatOptional(1, kind, body, bodyLength)
	abi.Begin()
	switch answer := handler(caller, name, payload).(type) {
	case Reply:
		replied.kind = 0
		replied.payload = abi.Body(answer.Payload)
		replied.actions = abi.Actions(answer.Actions)
		return abi.Place(&replied)
	case Refuse:
		refused.kind, refused.value = 1, abi.Refuse(wayleave.Refusal(answer))
	case Unknown:
		refused.kind = 2
	default:
		panic("call gave no answer")
	}
	return abi.Place(&refused)
}
