"""What makes hooks in Python pleasant to write and to mend.

In a plugin nothing of the system is there, and whatever asks for it traps
without a word: so does a `print`, and so does an exception that nobody catches,
since Python would print it. Hence:

- `@hooks` on a class of hooks writes such an exception into the gateway's log.
  The call fails all the same, as it must.
- `print` and the standard streams write into that log, a line each.

Both want `import wayleave:plugin/log@0.1.0;` in `wit/world.wit`, and the grant
`log`. Without them nothing is written, and nothing else changes.
"""

import functools
import json
import sys
import traceback

from wit_world.imports.types import Payload, Payload_Binary, Payload_Text, Refusal

try:
    from wit_world.imports import log as gateway
except ImportError:
    gateway = None


def hooks(cls):
    """Has the hooks of a class say what went wrong in them."""
    for name, method in list(vars(cls).items()):
        if callable(method) and not name.startswith("_"):
            setattr(cls, name, _speaking(method))
    return cls


def text(value) -> Payload_Text:
    """A payload of the JSON of a value."""
    return Payload_Text(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def value(payload: Payload):
    """What a payload holds: the value of its JSON, or bytes."""
    return payload.value if isinstance(payload, Payload_Binary) else json.loads(payload.value)


def no(reason: str, code: int = 0, temporary: bool = False) -> Refusal:
    """A refusal; code 0 stands for the protocol's "permission denied"."""
    return Refusal(code, reason, temporary)


def _speaking(hook):
    @functools.wraps(hook)
    def speaking(*arguments):
        try:
            return hook(*arguments)
        except Exception as error:
            if gateway is not None:
                gateway.log(gateway.Level.ERROR, _describe(error))
            raise

    return speaking


def _describe(error: Exception) -> str:
    # Not the library's own text of it: that looks for the source files.
    lines = [f"{type(error).__name__}: {error}"]
    for frame, line in traceback.walk_tb(error.__traceback__):
        lines.append(f"  {frame.f_code.co_filename}:{line} in {frame.f_code.co_name}")
    return "\n".join([lines[0], *reversed(lines[1:])])


class _Lines:
    """A stream whose lines become lines of the log."""

    encoding = "utf-8"

    def __init__(self, level):
        self.level = level
        self.rest = ""

    def write(self, text: str) -> int:
        *lines, self.rest = (self.rest + text).split("\n")
        for line in lines:
            if gateway is not None:
                gateway.log(self.level, line)
        return len(text)

    def flush(self) -> None:
        """A line that is not finished waits for its end."""

    def isatty(self) -> bool:
        return False


if sys.platform == "wasi":
    sys.stdout = _Lines(gateway and gateway.Level.INFO)
    sys.stderr = _Lines(gateway and gateway.Level.ERROR)
