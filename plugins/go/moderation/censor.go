package main

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Censor finds listed words in text, without regard to case, and masks them.
//
// Two steps, since nearly all messages are clean. Suspects runs once over the raw
// JSON, takes a hash of each word and looks that up; it neither parses nor
// allocates, and its cost hardly depends on how many words are listed. Only what
// it suspects is looked at exactly, by MaskJSON.
type Censor struct {
	// Folded texts by the hash of their first word. A text may be a phrase.
	listed map[uint64][][]rune
}

// NewCensor fails for a text that could not be found.
func NewCensor(words []string) (*Censor, error) {
	censor := &Censor{map[uint64][][]rune{}}
	for _, text := range words {
		end, hash := word(text, 0)
		if end == 0 {
			return nil, fmt.Errorf("words: `%s` must begin with a letter or a digit", text)
		}
		folded := []rune(text)
		for i, r := range folded {
			folded[i] = fold(r)
		}
		censor.listed[hash] = append(censor.listed[hash], folded)
	}
	return censor, nil
}

// Suspects is false only if no string of the JSON can hold a listed text.
func (c *Censor) Suspects(json string) bool {
	for at := 0; at < len(json); {
		end, hash := word(json, at)
		switch {
		case end > at:
			if _, ok := c.listed[hash]; ok {
				return true
			}
			at = end
		case json[at] == '\\':
			// `\u` may stand for a letter, so that only decoding can tell. The
			// letter of other escapes, as in `\n`, is no part of a word.
			if at+1 < len(json) && json[at+1] == 'u' {
				return true
			}
			at += 2
		default:
			at += width(json, at)
		}
	}
	return false
}

// MaskJSON masks the string values of JSON; false: there was nothing to mask.
// Keys, numbers and white space stay as they are, byte for byte: that is why it
// does not go through a tree of values.
func (c *Censor) MaskJSON(json string) (string, bool, error) {
	var masked strings.Builder
	copied := 0
	for at := 0; ; {
		found := strings.IndexByte(json[at:], '"')
		if found < 0 {
			break
		}
		open := at + found
		at = endOfString(json, open)
		if isKey := strings.HasPrefix(strings.TrimLeft(json[at:], " \t\r\n"), ":"); isKey {
			continue
		}
		text, err := unquote(json[open:at])
		if err != nil {
			return "", false, err
		}
		if text, ok := c.mask(text); ok {
			masked.WriteString(json[copied:open])
			masked.WriteString(quote(text))
			copied = at
		}
	}
	if copied == 0 {
		return "", false, nil
	}
	masked.WriteString(json[copied:])
	return masked.String(), true, nil
}

func (c *Censor) mask(text string) (string, bool) {
	var masked strings.Builder
	copied := 0
	for at := 0; at < len(text); {
		end, hash := word(text, at)
		if end == at {
			at += width(text, at)
			continue
		}
		// The longest, so that of `bad` and `bad word` the phrase counts.
		length := 0
		for _, listed := range c.listed[hash] {
			length = max(length, prefix(text[at:], listed))
		}
		if length == 0 {
			at = end
			continue
		}
		masked.WriteString(text[copied:at])
		masked.WriteString(strings.Repeat("*", utf8.RuneCountInString(text[at:at+length])))
		at += length
		copied = at
	}
	if copied == 0 {
		return "", false
	}
	masked.WriteString(text[copied:])
	return masked.String(), true
}

// word is the one that begins at `at`: its end and a hash of its folded letters.
// The end is `at` if there is none.
func word(text string, at int) (int, uint64) {
	// FNV-1a, for it is short and goes letter by letter. What it takes for listed
	// is compared afterwards, so nothing depends on its quality but speed.
	hash := uint64(0xcbf29ce484222325)
	for at < len(text) {
		r, size := rune(text[at]), 1
		if r < utf8.RuneSelf {
			if r = rune(ascii[r]); r == 0 {
				break
			}
		} else {
			if r, size = utf8.DecodeRuneInString(text[at:]); !isLetter(r) {
				break
			}
			r = fold(r)
		}
		hash = (hash ^ uint64(r)) * 0x100000001b3
		at += size
	}
	return at, hash
}

// prefix is how many bytes of `text` are `listed`, which must end where a word
// may end.
func prefix(text string, listed []rune) int {
	at := 0
	for _, wanted := range listed {
		r, size := utf8.DecodeRuneInString(text[at:])
		if size == 0 || fold(r) != wanted {
			return 0
		}
		at += size
	}
	if r, size := utf8.DecodeRuneInString(text[at:]); size > 0 && isLetter(r) {
		return 0
	}
	return at
}

// isLetter is also true for digits.
func isLetter(r rune) bool {
	return unicode.IsLetter(r) || unicode.IsNumber(r) || unicode.Is(unicode.Other_Alphabetic, r)
}

// fold makes upper and lower case one. By way of the upper case, as `ς` and `σ`
// have the same.
func fold(r rune) rune {
	// Of two letters in lower case, so that it has no counterpart.
	if r == 'İ' {
		return r
	}
	return unicode.ToLower(unicode.ToUpper(r))
}

func width(text string, at int) int {
	_, size := utf8.DecodeRuneInString(text[at:])
	return size
}

// For each byte its lower case, if it is a letter or digit of ASCII.
var ascii = func() (table [utf8.RuneSelf]byte) {
	for b := range table {
		if r := rune(b); isLetter(r) {
			table[b] = byte(unicode.ToLower(r))
		}
	}
	return table
}()
