package observe

import (
	"wayleave"
	"wayleave/internal/abi"
)

var answer abi.Span

//go:wasmexport wayleave:plugin/observe@1.0.0#observe
func export(
	kind abi.Address, kindLength uint32,
	connection abi.Address, connectionLength uint32,
	user abi.Address, userLength uint32,
	info abi.Address, infoLength uint32,
	clientAttributes abi.Address, clientAttributesLength uint32,
	room abi.Address, roomLength uint32,
	attributes abi.Address, attributesLength uint32,
) abi.Address {
	defer abi.End()
	event := Event{
		Kind: abi.Span{Start: kind, Length: kindLength}.String(),
		Who: wayleave.Client{
			Connection: abi.Span{Start: connection, Length: connectionLength}.String(),
			User:       abi.Span{Start: user, Length: userLength}.String(),
			Info:       abi.Span{Start: info, Length: infoLength}.String(),
			Attributes: abi.Span{Start: clientAttributes, Length: clientAttributesLength}.Attributes(),
		},
		Room:       abi.Span{Start: room, Length: roomLength}.String(),
		Attributes: abi.Span{Start: attributes, Length: attributesLength}.Attributes(),
	}
	abi.Begin()
	answer = abi.Actions(handler(event))
	return abi.Place(&answer)
}
