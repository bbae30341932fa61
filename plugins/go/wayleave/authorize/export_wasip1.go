package authorize

import (
	"wayleave"
	"wayleave/internal/abi"
)

type arguments struct {
	who         abi.Client
	room, token abi.Span
	data        abi.Optional
	attributes  abi.Span
}

type terms struct {
	publish, presence Permission
	info              abi.Span
	data              abi.Optional
	attributes        abi.Span
}

// An answer in memory: its case, and one of the two.
var (
	allowed struct {
		kind  uint32
		value terms
	}
	refused struct {
		kind  uint32
		value abi.Refusal
	}
)

//go:wasmexport wayleave:plugin/authorize@1.0.0#join
func export(asked abi.Address) abi.Address {
	defer abi.End()
	arguments := (*arguments)(abi.At(asked))
	who := arguments.who.Take()
	request := Request{
		Room:       arguments.room.String(),
		Token:      arguments.token.String(),
		Data:       arguments.data.Take(),
		Attributes: arguments.attributes.Attributes(),
	}
	abi.Begin()
	switch answer := handler(who, request).(type) {
	case Allow:
		allowed.kind = 0
		allowed.value = terms{
			answer.Publish,
			answer.Presence,
			abi.Text(answer.Info),
			abi.Maybe(answer.Data),
			abi.Attributes(answer.Attributes),
		}
		return abi.Place(&allowed)
	case Refuse:
		refused.kind, refused.value = 1, abi.Refuse(wayleave.Refusal(answer))
		return abi.Place(&refused)
	}
	panic("authorize gave no answer")
}
