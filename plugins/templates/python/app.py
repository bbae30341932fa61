"""A plugin with every hook, each ready to be filled in; as it is, it changes
nothing. Remove the hooks that it has no use for, here and in wit/world.wit.

This file speaks with the gateway. What decides is better put into modules of its
own, such as settings.py, which can be tested without a gateway.
"""

from settings import Settings
from wit_world import exports
from wit_world.exports.authenticate import Authentication, Authentication_Abstain, Hello
from wit_world.exports.authorize import Admission, Admission_Allow, JoinRequest, Permission, Terms
from wit_world.exports.authorize_publish import Permit, Permit_Allow
from wit_world.exports.call import Answer, Answer_Reply, Answer_Unknown, Reply
from wit_world.exports.lifecycle import Readiness, Readiness_Failed, Readiness_Ready
from wit_world.exports.observe import Event
from wit_world.exports.route import Routing, Routing_Pass
from wit_world.exports.tick import Moment
from wit_world.exports.transform import Verdict, Verdict_Pass
from wit_world.imports.types import Action, Client, Message, Payload

import wayleave

# Set by `init`, which the gateway calls before anything else. Guests come and go,
# so this is a cache: what is to last belongs into `kv`.
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
class SelfTest(exports.SelfTest):
    """Asked once for each new generation: say Readiness_Failed, and the one that
    is live stays."""

    def run(self) -> Readiness:
        return Readiness_Ready()


@wayleave.hooks
class Authenticate(exports.Authenticate):
    """Who is it? Accept with an identity, refuse, or leave it to the next."""

    def authenticate(self, hello: Hello) -> Authentication:
        return Authentication_Abstain()


@wayleave.hooks
class Authorize(exports.Authorize):
    """May it join the room?"""

    def join(self, who: Client, request: JoinRequest) -> Admission:
        # What a member may do is left to the room's entry in the config.
        terms = Terms(Permission.CONFIGURED, Permission.CONFIGURED, info="", data=None, attributes=[])
        return Admission_Allow(terms)


@wayleave.hooks
class AuthorizePublish(exports.AuthorizePublish):
    """May it publish this?"""

    def publish(self, sender: Client, message: Message) -> Permit:
        return Permit_Allow()


@wayleave.hooks
class Transform(exports.Transform):
    """What becomes of the message: pass, replace, drop or refuse."""

    def transform(self, sender: Client, message: Message) -> Verdict:
        return Verdict_Pass()


@wayleave.hooks
class Route(exports.Route):
    """Who gets it: the room, others too, or only others."""

    def route(self, sender: Client, message: Message) -> Routing:
        return Routing_Pass()


@wayleave.hooks
class Observe(exports.Observe):
    """Something happened: `connected`, `disconnected`, `joined` or `left`; more
    will come, and what is not known is to be ignored."""

    def observe(self, event: Event) -> list[Action]:
        return []


@wayleave.hooks
class Tick(exports.Tick):
    """A period of the config's `tick` is over."""

    def tick(self, moment: Moment) -> list[Action]:
        return []


@wayleave.hooks
class Call(exports.Call):
    """A client calls (rpc), or sends, with an empty method."""

    def call(self, caller: Client, method: str, payload: Payload) -> Answer:
        match method:
            case "greet":
                greeting = wayleave.text(f"{settings.greeting}, {caller.user or 'stranger'}")
                return Answer_Reply(Reply(greeting, actions=[]))
            case _:
                return Answer_Unknown()
