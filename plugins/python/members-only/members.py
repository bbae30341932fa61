"""Who may be in which room. Nothing here knows of the gateway."""

import json
from dataclasses import dataclass

GROUP = "group:"

# Python looks for a codec in its files when it is first used, and a plugin has
# no files: what is to be had must have been used when the plugin was built.
"".encode("utf-16-be")


@dataclass
class Rule:
    pattern: str
    #: The pattern between its `*`.
    parts: list[str]
    users: set[str]
    groups: set[str]

    def order(self):
        """The one that fixes more of the name first; a tie is broken by the
        alphabet, only so that all guests decide alike."""
        return -len(units("".join(self.parts))), units(self.pattern)


class Members:
    def __init__(self, settings: str):
        """`settings` is the plugin's table of the config, as JSON. Raises
        ValueError with what is wrong with it."""
        table = json.loads(settings)
        for key in table.keys() - {"rooms", "otherwise"}:
            raise ValueError(f"settings: unknown key `{key}`")
        rooms, otherwise = table.get("rooms", {}), table.get("otherwise", "refuse")
        if otherwise not in ("allow", "refuse"):
            raise ValueError("settings: `otherwise` must be `allow` or `refuse`")
        if not isinstance(rooms, dict):
            raise ValueError("settings: `rooms` must be a table of patterns")
        self.otherwise = otherwise == "allow"
        # The order of a TOML table is not kept, so it cannot decide between two
        # patterns that match.
        self.rules = sorted((rule(*entry) for entry in rooms.items()), key=Rule.order)

    def admits(self, room: str, user: str, info: str) -> bool:
        """Whether `user` may join; `info` is the JSON of the connection, or empty."""
        if not user:
            return False
        found = next((rule for rule in self.rules if matches(rule.parts, room)), None)
        if found is None:
            return self.otherwise
        if user in found.users:
            return True
        return bool(found.groups) and not found.groups.isdisjoint(groups_of(info))


def rule(pattern: str, entries) -> Rule:
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise ValueError(f"settings: `rooms.{pattern}` must be a list of users and groups")
    # An entry is a user or a group, never both: a user whose id happens to be
    # `group:staff` does not become one of the staff.
    groups = {entry.removeprefix(GROUP) for entry in entries if entry.startswith(GROUP)}
    users = {entry for entry in entries if not entry.startswith(GROUP)}
    return Rule(pattern, pattern.split("*"), users, groups)


def matches(parts: list[str], room: str) -> bool:
    """Whether `room` is the parts in this order, with any run of characters
    between them. Not a regular expression: with several `*` those can take very
    long for names that a client makes up."""
    first, *middle = parts
    if not middle:
        return room == first
    last = middle.pop()
    if not room.startswith(first):
        return False
    at = len(first)
    for part in middle:
        found = room.find(part, at)
        if found < 0:
            return False
        at = found + len(part)
    return len(room) - len(last) >= at and room.endswith(last)


def groups_of(info: str) -> list[str]:
    """The `groups` of the info; whatever is not as expected gives none."""
    table = json.loads(info) if info else {}
    groups = table.get("groups") if isinstance(table, dict) else None
    return [group for group in groups if isinstance(group, str)] if isinstance(groups, list) else []


def units(text: str) -> bytes:
    """Text as others count and order it, who write this plugin in JavaScript."""
    return text.encode("utf-16-be", "surrogatepass")
