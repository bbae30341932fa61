package http

import "wayleave/internal/abi"

//go:wasmimport wayleave:plugin/http@1.0.0 send
func hostSend(
	method abi.Address, methodLength uint32,
	url abi.Address, urlLength uint32,
	headers abi.Address, headersLength uint32,
	isBody, bodyKind uint32, body abi.Address, bodyLength uint32,
	timeout uint32,
	result abi.Address,
)

type response struct {
	status  uint16
	headers abi.Span
	body    abi.Payload
}

// A result in memory: its case, and the largest.
var outcome struct {
	kind     uint32
	response response
}

// The same memory, if it is a reason.
func why() string {
	text := (*abi.Span)(abi.At(abi.Place(&outcome.response))).String()
	abi.Taken()
	return text
}

func send(request Request) (Response, error) {
	method, url, headers := abi.Text(request.Method), abi.Text(request.URL), abi.Attributes(request.Headers)
	body := abi.Maybe(request.Body)
	hostSend(
		method.Start, method.Length,
		url.Start, url.Length,
		headers.Start, headers.Length,
		uint32(body.Is), uint32(body.Payload.Case), body.Payload.Body.Start, body.Payload.Body.Length,
		uint32(request.Timeout.Milliseconds()),
		abi.Place(&outcome),
	)
	switch uint8(outcome.kind) {
	case 0:
		response := Response{
			Status:  outcome.response.status,
			Headers: outcome.response.headers.Attributes(),
			Body:    outcome.response.body.Take(),
		}
		abi.Taken()
		return response, nil
	case 1:
		return Response{}, explained{ErrForbidden, why()}
	case 2:
		return Response{}, ErrTooLarge
	case 3:
		return Response{}, ErrTimeout
	}
	return Response{}, explained{ErrFailed, why()}
}
