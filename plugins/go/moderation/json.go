package main

import (
	"errors"
	"strconv"
	"strings"
	"unicode/utf16"
)

// The library's own reader puts another character in the place of half a
// surrogate pair, so that nobody could tell; and its writer changes more than it
// must.

var errNotUnicode = errors.New("the text is not valid Unicode")

// unquote is the text of a string literal of JSON, which is known to be valid.
func unquote(literal string) (string, error) {
	rest := literal[1 : len(literal)-1]
	if strings.IndexByte(rest, '\\') < 0 {
		return rest, nil
	}
	var text strings.Builder
	for {
		before, escape, found := strings.Cut(rest, `\`)
		text.WriteString(before)
		if !found {
			return text.String(), nil
		}
		if escape[0] != 'u' {
			text.WriteByte(escapes[escape[0]])
			rest = escape[1:]
			continue
		}
		r, size := unit(escape[1:]), 5
		if utf16.IsSurrogate(r) {
			next, ok := strings.CutPrefix(escape[5:], `\u`)
			if !ok {
				return "", errNotUnicode
			}
			r, size = utf16.DecodeRune(r, unit(next)), 11
			if r == '\uFFFD' {
				return "", errNotUnicode
			}
		}
		text.WriteRune(r)
		rest = escape[size:]
	}
}

func unit(digits string) rune {
	unit, _ := strconv.ParseUint(digits[:4], 16, 16)
	return rune(unit)
}

var escapes = map[byte]byte{
	'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t',
}

// quote is a text as a string literal of JSON.
func quote(text string) string {
	literal := []byte{'"'}
	for i := range len(text) {
		switch b := text[i]; {
		case b == '"' || b == '\\':
			literal = append(literal, '\\', b)
		case b >= ' ':
			literal = append(literal, b)
		default:
			if short := strings.IndexByte("\b\f\n\r\t", b); short >= 0 {
				literal = append(literal, '\\', "bfnrt"[short])
			} else {
				literal = append(literal, '\\', 'u', '0', '0', "01"[b>>4], "0123456789abcdef"[b&15])
			}
		}
	}
	return string(append(literal, '"'))
}

// endOfString is the place behind the closing quote of the string literal at `open`.
func endOfString(json string, open int) int {
	at := open + 1
	for at < len(json) && json[at] != '"' {
		if json[at] == '\\' {
			at++
		}
		at++
	}
	return min(at+1, len(json))
}
