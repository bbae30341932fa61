"""Masks, refuses or drops messages that hold a listed word.

This file speaks with the gateway; censor.py knows words and JSON, settings.py
the settings, and both are tested without one.
"""

from censor import Censor, NotUnicode
from settings import Settings
from wit_world import exports
from wit_world.exports.lifecycle import Readiness, Readiness_Failed, Readiness_Ready
from wit_world.exports.transform import Verdict, Verdict_Drop, Verdict_Pass, Verdict_Refuse, Verdict_Replace
from wit_world.imports.log import Level, log
from wit_world.imports.types import Client, Message, Payload_Text

import wayleave

DONE = {"mask": "masked", "refuse": "refused", "drop": "dropped"}

# Set by `init`, which the gateway calls before anything else.
censor: Censor
action: str


@wayleave.hooks
class Lifecycle(exports.Lifecycle):
    def init(self, settings: str) -> Readiness:
        global censor, action
        try:
            checked = Settings.parse(settings)
            censor, action = Censor(checked.words), checked.action
        except ValueError as error:
            return Readiness_Failed(str(error))
        return Readiness_Ready()


@wayleave.hooks
class Transform(exports.Transform):
    def transform(self, sender: Client, message: Message) -> Verdict:
        if not isinstance(message.payload, Payload_Text):
            return Verdict_Pass()
        try:
            masked = censor.mask_json(message.payload.value)
        except NotUnicode as error:
            return Verdict_Refuse(wayleave.no(str(error), 400))
        if masked is None:
            return Verdict_Pass()
        log(Level.INFO, f"{DONE[action]} message {message.id} of `{sender.user}` in `{message.room}`")
        match action:
            case "mask":
                return Verdict_Replace(Payload_Text(masked))
            case "refuse":
                return Verdict_Refuse(wayleave.no("the message holds a word that is not allowed here", 422))
            case _:
                return Verdict_Drop()
