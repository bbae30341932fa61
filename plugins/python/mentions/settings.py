"""The plugin's settings, checked."""

import dataclasses
import json


@dataclasses.dataclass
class Settings:
    #: Where in the payload people write.
    field: str = "text"
    max_mentions: int = 10
    announcers: list[str] = dataclasses.field(default_factory=list)
    announce_rooms: list[str] = dataclasses.field(default_factory=list)

    @staticmethod
    def parse(text: str) -> "Settings":
        """Raises ValueError with what is wrong."""
        table = json.loads(text)
        for key in table.keys() - {known.name for known in dataclasses.fields(Settings)}:
            raise ValueError(f"settings: unknown key `{key}`")
        settings = Settings(**table)
        if not isinstance(settings.field, str):
            raise ValueError("settings: `field` must be a text")
        if type(settings.max_mentions) is not int or settings.max_mentions < 0:
            raise ValueError("settings: `max_mentions` must be a number, 0 or more")
        for key in ("announcers", "announce_rooms"):
            names = getattr(settings, key)
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise ValueError(f"settings: `{key}` must be a list of names")
        if "" in settings.announcers:
            raise ValueError("settings: an empty name in `announcers` would let anonymous users announce")
        if settings.announcers and not settings.announce_rooms:
            raise ValueError("settings: `announcers` need `announce_rooms`")
        return settings
