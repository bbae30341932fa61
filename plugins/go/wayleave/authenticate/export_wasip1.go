package authenticate

import (
	"wayleave"
	"wayleave/internal/abi"
)

type identity struct {
	user, info, rooms abi.Span
	expiresAt         uint64
	attributes        abi.Span
}

// An answer in memory: its case, and one of the two.
var (
	accepted struct {
		kind  uint64
		value identity
	}
	refused struct {
		kind  uint64
		value abi.Refusal
	}
)

//go:wasmexport wayleave:plugin/authenticate@1.0.0#authenticate
func export(
	connection abi.Address, connectionLength uint32,
	token abi.Address, tokenLength uint32,
	isData, data uint32, body abi.Address, bodyLength uint32,
	name abi.Address, nameLength uint32,
	version abi.Address, versionLength uint32,
	attributes abi.Address, attributesLength uint32,
) abi.Address {
	defer abi.End()
	hello := Hello{
		Connection: abi.Span{Start: connection, Length: connectionLength}.String(),
		Token:      abi.Span{Start: token, Length: tokenLength}.String(),
		Data:       abi.FlatOptional(isData, data, body, bodyLength),
		Name:       abi.Span{Start: name, Length: nameLength}.String(),
		Version:    abi.Span{Start: version, Length: versionLength}.String(),
		Attributes: abi.Span{Start: attributes, Length: attributesLength}.Attributes(),
	}
	abi.Begin()
	switch answer := handler(hello).(type) {
	case Accept:
		accepted.kind = 0
		accepted.value = identity{
			abi.Text(answer.User),
			abi.Text(answer.Info),
			abi.Put(answer.Rooms, abi.Text),
			answer.ExpiresAt,
			abi.Attributes(answer.Attributes),
		}
		return abi.Place(&accepted)
	case Refuse:
		refused.kind, refused.value = 1, abi.Refuse(wayleave.Refusal(answer))
		return abi.Place(&refused)
	case Abstain:
		refused.kind = 2
		return abi.Place(&refused)
	}
	panic("authenticate gave no answer")
}
