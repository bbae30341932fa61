"""The plugin's settings, checked: what is wrong with them is better told when
the plugin is loaded than at the first message."""

import json
from dataclasses import dataclass

ACTIONS = ("mask", "refuse", "drop")


@dataclass
class Settings:
    words: list[str]
    action: str = "mask"

    @staticmethod
    def parse(text: str) -> "Settings":
        """Raises ValueError with what is wrong."""
        table = json.loads(text)
        for key in table.keys() - {"words", "action"}:
            raise ValueError(f"settings: unknown key `{key}`")
        words = table.get("words")
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise ValueError("settings: `words` must be a list of texts")
        action = table.get("action", "mask")
        if action not in ACTIONS:
            raise ValueError(f"settings: `action` must be one of {', '.join(ACTIONS)}")
        return Settings(words, action)
