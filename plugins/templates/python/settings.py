"""The plugin's settings, checked: what is wrong with them is better told when
the plugin is loaded than at the first message."""

import json
from dataclasses import dataclass


@dataclass
class Settings:
    greeting: str = "hello"

    @staticmethod
    def parse(text: str) -> "Settings":
        """Raises ValueError with what is wrong."""
        table = json.loads(text)
        for key in table.keys() - {"greeting"}:
            raise ValueError(f"settings: unknown key `{key}`")
        settings = Settings(**table)
        if not isinstance(settings.greeting, str):
            raise ValueError("settings: `greeting` must be a text")
        return settings
