"""Tells mentioned users, and takes announcements to several rooms.

This file speaks with the gateway; text.py reads what people write, settings.py
the settings, and both are tested without one.
"""

import text
from settings import Settings
from wit_world import exports
from wit_world.exports.lifecycle import Readiness, Readiness_Failed, Readiness_Ready
from wit_world.exports.route import Routing, Routing_Add, Routing_Pass, Routing_Refuse, Routing_Replace
from wit_world.imports.types import (
    Client,
    Delivery,
    Message,
    Payload_Text,
    Target,
    Target_Room,
    Target_User,
)

import wayleave

# Set by `init`, which the gateway calls before anything else.
settings: Settings


@wayleave.hooks
class Lifecycle(exports.Lifecycle):
    def init(self, settings: str) -> Readiness:
        try:
            globals()["settings"] = Settings.parse(settings)
        except ValueError as error:
            return Readiness_Failed(str(error))
        return Readiness_Ready()


@wayleave.hooks
class Route(exports.Route):
    def route(self, sender: Client, message: Message) -> Routing:
        payload = message.payload
        # Most messages mention nobody: they are not parsed.
        if not isinstance(payload, Payload_Text) or not text.may_concern(payload.value):
            return Routing_Pass()
        written = text.field(payload.value, settings.field)
        if written is None:
            return Routing_Pass()
        announced = text.announcement(written)
        if announced is not None:
            return announce(sender.user, announced)
        names = text.mentions(written, sender.user, settings.max_mentions)
        if not names:
            return Routing_Pass()
        # The message goes along as it came, byte for byte.
        head = wayleave.text({"kind": "mention", "room": message.room, "from": sender.user}).value
        mention = f'{head[:-1]},"data":{payload.value.strip()}}}'
        return Routing_Add([delivery([Target_User(name) for name in names], mention)])


def announce(user: str, announced: str) -> Routing:
    if user not in settings.announcers:
        return Routing_Refuse(wayleave.no("you are not one of the announcers", 403))
    announcement = wayleave.text({"kind": "announcement", "from": user, "text": announced}).value
    return Routing_Replace([delivery([Target_Room(room) for room in settings.announce_rooms], announcement)])


def delivery(to: list[Target], payload: str) -> Delivery:
    """One delivery for all: the payload is the same, and crosses over only once."""
    return Delivery(to, except_=[], payload=Payload_Text(payload), attributes=[])
