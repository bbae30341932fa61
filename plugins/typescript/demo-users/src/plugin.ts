// Takes the token `demo-ada` for the user `ada`, whoever sends it.
//
// This file speaks with the gateway; users.ts decides and is tested without one.

import { userOf } from "./users";

export const authenticate = {
  // Not async: the gateway would get a promise, which is no answer and a trap.
  authenticate(hello: Hello): Authentication {
    const user = userOf(hello.token);
    // Other tokens, and none, are left to the rest of the `[auth]` section.
    if (!user) return { tag: "abstain" };
    return {
      tag: "accept",
      val: {
        user: user.id,
        info: JSON.stringify({ name: user.name }),
        rooms: [],
        // For never.
        expiresAt: 0,
        attributes: [],
      },
    };
  },
};
