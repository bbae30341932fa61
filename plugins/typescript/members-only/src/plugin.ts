// Lets the users and groups that its settings list into their rooms.
//
// This file speaks with the gateway; members.ts decides and is tested without one.

import { Members } from "./members";

// Set by `init`, which the gateway calls before anything else.
let members: Members;

export const lifecycle = {
  init(settings: string): Readiness {
    try {
      members = new Members(settings);
      return { tag: "ready" };
    } catch (error) {
      return { tag: "failed", val: (error as Error).message };
    }
  },
};

export const authorize = {
  // Not async: the gateway would get a promise, which is no answer and a trap.
  join(who: Client, request: JoinRequest): Admission {
    if (members.admits(request.room, who.user, who.info)) {
      return {
        tag: "allow",
        // What a member may do is left to the room's entry in the config.
        val: { publish: "configured", presence: "configured", info: "", data: null, attributes: [] },
      };
    }
    // Code 0 stands for the protocol's own "permission denied". The reason is
    // the same for unknown rooms, so that it does not tell which ones there are.
    return { tag: "refuse", val: { code: 0, reason: "members only", temporary: false } };
  },
};
