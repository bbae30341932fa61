package main

import (
	"encoding/json"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

const announce = "/announce "

// mayConcern is false only if the JSON holds neither a mention nor an
// announcement. A slash may be written `\/`, and any letter as `\u`, hence not
// the whole command.
func mayConcern(text string) bool {
	return strings.IndexByte(text, '@') >= 0 || strings.Contains(text, "announce") || strings.Contains(text, `\u`)
}

// field is the string that `text`, an object, has in `name`.
func field(text, name string) (string, bool) {
	var table map[string]json.RawMessage
	if json.Unmarshal([]byte(text), &table) != nil {
		return "", false
	}
	var found *string
	if json.Unmarshal(table[name], &found) != nil || found == nil {
		return "", false
	}
	// Half a surrogate pair is valid as JSON, but nobody can read or send it; the
	// library puts this character in its place.
	if strings.ContainsRune(*found, utf8.RuneError) && hasHalfPair(table[name]) {
		return "", false
	}
	return *found, true
}

// hasHalfPair says whether a string literal of JSON has half a surrogate pair:
// whether less of this character is in it, one way or the other, than was read.
func hasHalfPair(literal []byte) bool {
	var read string
	json.Unmarshal(literal, &read)
	written := strings.ReplaceAll(string(literal), `\\`, "")
	meant := strings.Count(written, string(utf8.RuneError)) + strings.Count(strings.ToLower(written), `\ufffd`)
	return strings.Count(read, string(utf8.RuneError)) > meant
}

// announcement is what is to be announced, if that is what `text` wants.
func announcement(text string) (string, bool) {
	rest, ok := strings.CutPrefix(text, announce)
	rest = strings.TrimSpace(rest)
	return rest, ok && rest != ""
}

// mentions are the names that `text` mentions, each once, in order, at most
// `most`, without the sender's own.
func mentions(text, sender string, most int) []string {
	var names []string
	for at := 0; len(names) < most; {
		found := strings.IndexByte(text[at:], '@')
		if found < 0 {
			break
		}
		before := text[:at+found]
		at += found + 1
		rest := text[at:]
		if end := strings.IndexFunc(rest, func(r rune) bool { return !isName(r) }); end >= 0 {
			rest = rest[:end]
		}
		// The dot of `ask @ada.` ends the sentence; that of `@ada.l` does not.
		name := strings.TrimRight(rest, ".-")
		// Behind a letter it is an e-mail address.
		last, size := utf8.DecodeLastRuneInString(before)
		isAddress := size > 0 && isName(last)
		if !isAddress && name != "" && name != sender && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

func isName(r rune) bool {
	return r == '_' || r == '-' || r == '.' ||
		unicode.IsLetter(r) || unicode.IsNumber(r) || unicode.Is(unicode.Other_Alphabetic, r)
}

// quote is a text as a string literal of JSON. The library's own writer changes
// more than it must.
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
