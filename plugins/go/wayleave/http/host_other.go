//go:build !wasip1

package http

// Answer is who answers in tests; there is such a variable in tests only.
var Answer func(request Request) (Response, error)

func send(request Request) (Response, error) {
	if Answer == nil {
		return Response{}, explained{ErrFailed, "in tests, http.Answer answers"}
	}
	return Answer(request)
}
