"""Finds listed words in text, without regard to case, and masks them."""

import json
import re

from letters import WORD, is_letter

LITERAL = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"(\s*:)?', re.DOTALL)
ASCII_WORD = re.compile("[0-9A-Za-z]+")
HALF_PAIR = re.compile("[\ud800-\udfff]")
# Longer lists are looked up word by word.
FEW = 32


class NotUnicode(Exception):
    """Half a surrogate pair: valid as JSON, but nobody can read or check it."""


class Censor:
    def __init__(self, words: list[str]):
        # The listed texts by their first word, folded. One pattern for all
        # would try each of them at every place of a message.
        self.listed: dict[str, list[str]] = {}
        for text in words:
            first = WORD.match(text)
            if first is None:
                raise ValueError(f"words: `{text}` must begin with a letter or a digit")
            self.listed.setdefault(fold(first[0]), []).append(fold(text))
        self.is_short = 0 < len(self.listed) <= FEW
        firsts = "|".join(map(re.escape, self.listed))
        # First words alone, in lower case.
        self.word = re.compile(f"(?<![0-9a-z])(?:{firsts})(?![0-9a-z])") if self.is_short else ASCII_WORD

    def mask_json(self, text: str) -> str | None:
        """`text`, which is JSON, with its string values masked, or None if there
        was nothing to mask. Keys, numbers and white space stay as they are: that
        is why it does not go through a tree of values. Raises NotUnicode."""
        # Nearly all messages are clean, and this tells most of them without
        # decoding anything. With an escape, which may stand for a letter, it cannot.
        if "\\" not in text and not self._suspects(text):
            return None
        found = False

        def literal(match: re.Match) -> str:
            nonlocal found
            if match[1] is not None:
                return match[0]
            value = json.loads(match[0])
            if HALF_PAIR.search(value):
                raise NotUnicode("the text is not valid Unicode")
            masked = self._mask(value)
            if masked is None:
                return match[0]
            found = True
            return json.dumps(masked, ensure_ascii=False)

        masked = LITERAL.sub(literal, text)
        return masked if found else None

    def _suspects(self, text: str) -> bool:
        if text.isascii():
            lower = text.lower()
            if self.is_short:
                # To look for a part takes a tenth of what words take.
                return any(first in lower for first in self.listed)
            return not self.listed.keys().isdisjoint(ASCII_WORD.findall(lower))
        return any(fold(word) in self.listed for word in WORD.findall(text))

    def _mask(self, text: str) -> str | None:
        masked = []
        copied = at = 0
        is_ascii = text.isascii()
        # The other pattern takes longer.
        find, folded = (self.word.search, text.lower()) if is_ascii else (WORD.search, text)
        while word := find(folded, at):
            start, at = word.span()
            lengths = (len(listed) for listed in self.listed.get(fold(word[0]), ()) if is_at(text, start, listed))
            # The longest, so that of `bad` and `bad word` the phrase counts.
            if length := max(lengths, default=0):
                masked += (text[copied:start], "*" * length)
                copied = at = start + length
        return "".join([*masked, text[copied:]]) if masked else None


def is_at(text: str, at: int, listed: str) -> bool:
    """Whether `listed` stands there, and ends where a word may end."""
    end = at + len(listed)
    return fold(text[at:end]) == listed and not (end < len(text) and is_letter(text[end]))


def fold(text: str) -> str:
    """Makes upper and lower case one, and keeps the length."""
    return text.lower() if text.isascii() else "".join(map(fold_letter, text))


def fold_letter(letter: str) -> str:
    # By way of the upper case, as `ς` and `σ` have the same; a letter that has
    # no single counterpart stays as it is.
    upper = letter.upper()
    upper = upper if len(upper) == 1 else letter
    lower = upper.lower()
    return lower if len(lower) == 1 else upper
