"""Finds what concerns others in what people write."""

import json
import re

from letters import is_letter

ANNOUNCE = "/announce "
# Most of what names are made of.
ASCII_NAME = re.compile("[0-9A-Za-z_.-]*")
# What is no half of a surrogate pair, though it looks like one; and what then is.
WHOLE = re.compile(r"\\\\|\\u[dD][89abAB]..\\u[dD][c-fC-F]..")
HALF = re.compile(r"\\u[dD][89a-fA-F]")
# Not all that Python takes for white space, but what Unicode does.
SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"


def may_concern(text: str) -> bool:
    """False only if the JSON holds neither a mention nor an announcement. A
    slash may be written `\\/`, and any letter as `\\u`, hence not the whole
    command."""
    return "@" in text or "announce" in text or "\\u" in text


def field(text: str, name: str) -> str | None:
    """The string that `text`, an object, has in `name`."""
    # Valid as JSON, but nobody can read or send it.
    if "\\u" in text and HALF.search(WHOLE.sub(".", text)):
        return None
    try:
        table = json.loads(text)
    except (ValueError, RecursionError):
        return None
    found = table.get(name) if isinstance(table, dict) else None
    return found if isinstance(found, str) else None


def announcement(text: str) -> str | None:
    """What is to be announced, if that is what `text` wants."""
    return text.removeprefix(ANNOUNCE).strip(SPACE) or None if text.startswith(ANNOUNCE) else None


def mentions(text: str, sender: str, most: int) -> list[str]:
    """The names that `text` mentions, each once, in order, at most `most`,
    without the sender's own."""
    names = []
    at = text.find("@")
    while at >= 0 and len(names) < most:
        end = ASCII_NAME.match(text, at + 1).end()
        while end < len(text) and is_name(text[end]):
            end += 1
        # The dot of `ask @ada.` ends the sentence; that of `@ada.l` does not.
        name = text[at + 1 : end].rstrip(".-")
        # Behind a letter it is an e-mail address.
        if not is_name(text[at - 1 : at]) and name and name != sender and name not in names:
            names.append(name)
        at = text.find("@", at + 1)
    return names


def is_name(character: str) -> bool:
    return character != "" and (character in "_-." or is_letter(character))
