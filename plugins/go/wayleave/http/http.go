// Package http is requests to other servers. Grant `http`; the config names the
// origins.
//
// The call waits for the answer, and with it the message in hand: plugins with
// this grant run in a lane of their own, where they delay nobody else. Redirects
// are not followed.
package http

import (
	"errors"
	"time"

	"wayleave"
)

var (
	// ErrForbidden: the config does not allow this: the origin, the address behind
	// it, the method or a header. Another try ends the same.
	ErrForbidden = errors.New("http: forbidden")
	// ErrTooLarge: the answer is larger than the config allows.
	ErrTooLarge = errors.New("http: the answer is too large")
	// ErrTimeout: nothing came in time. Whether the server acted is not known.
	ErrTimeout = errors.New("http: timeout")
	// ErrFailed: the server cannot be reached, or what it says is no HTTP.
	ErrFailed = errors.New("http: failed")
)

// Header is a name with a value.
type Header = wayleave.Attribute

// Request is what is asked of a server.
type Request struct {
	// Method is `GET`, `POST`, and so on.
	Method string
	// URL is whole, as in `https://example.com/path?x=1`.
	URL     string
	Headers []Header
	// Body is nil for none.
	Body wayleave.Payload
	// Timeout is for all of it, at most what the plugin's `timeout` leaves; 0
	// stands for that.
	Timeout time.Duration
}

// Response is what it answers.
type Response struct {
	Status  uint16
	Headers []Header
	// Body is Text if it is UTF-8.
	Body wayleave.Payload
}

// Send waits for the answer. Errors wrap one of those above.
func Send(request Request) (Response, error) { return send(request) }

type explained struct {
	kind error
	why  string
}

func (e explained) Error() string { return e.kind.Error() + ": " + e.why }
func (e explained) Unwrap() error { return e.kind }
