"""Lets the users and groups that its settings list into their rooms.

This file speaks with the gateway; members.py decides and is tested without one.
"""

from members import Members
from wit_world import exports
from wit_world.exports.authorize import (
    Admission,
    Admission_Allow,
    Admission_Refuse,
    JoinRequest,
    Permission,
    Terms,
)
from wit_world.exports.lifecycle import Readiness, Readiness_Failed, Readiness_Ready
from wit_world.imports.types import Client

import wayleave

# Set by `init`, which the gateway calls before anything else.
members: Members


@wayleave.hooks
class Lifecycle(exports.Lifecycle):
    def init(self, settings: str) -> Readiness:
        global members
        try:
            members = Members(settings)
        except ValueError as error:
            return Readiness_Failed(str(error))
        return Readiness_Ready()


@wayleave.hooks
class Authorize(exports.Authorize):
    # Not async: the gateway would get a coroutine, which is no answer and a trap.
    def join(self, who: Client, request: JoinRequest) -> Admission:
        if members.admits(request.room, who.user, who.info):
            # What a member may do is left to the room's entry in the config.
            terms = Terms(Permission.CONFIGURED, Permission.CONFIGURED, info="", data=None, attributes=[])
            return Admission_Allow(terms)
        # Code 0 stands for the protocol's own "permission denied". The reason is
        # the same for unknown rooms, so that it does not tell which ones there are.
        return Admission_Refuse(wayleave.no("members only"))
