// Lets the users and groups that its settings list into their rooms.
//
// This file speaks with the gateway; members.ts decides and is tested without one.

import { Members } from "./members";

// Set by `init`, which the gateway calls before anything else.
let members: Members;

export function init(settings: string): Readiness {
  try {
    members = new Members(settings);
    return "ready";
  } catch (error) {
    return { tag: "failed", val: (error as Error).message };
  }
}

export function authorize(who: Client, request: JoinRequest): Admission {
  if (members.admits(request.room, who.user, who.info)) {
    // What a member may do is left to the room's entry in the config.
    return { tag: "allow", val: { publish: "configured", presence: "configured", info: "" } };
  }
  // Code 0 stands for the protocol's own "permission denied". The reason is
  // the same for unknown rooms, so that it does not tell which ones there are.
  return { tag: "refuse", val: { code: 0, reason: "members only" } };
}
