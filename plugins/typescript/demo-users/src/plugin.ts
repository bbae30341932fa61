// Takes the token `demo-ada` for the user `ada`, whoever sends it.
//
// This file speaks with the gateway; users.ts decides and is tested without one.

import { userOf } from "./users";

export function authenticate(hello: Hello): Authentication {
  const user = userOf(hello.token);
  // Other tokens, and none, are left to the rest of the `[auth]` section.
  if (!user) return "abstain";
  return {
    tag: "accept",
    val: {
      user: user.id,
      info: JSON.stringify({ name: user.name }),
      rooms: [],
      // For never.
      expiresAt: 0,
    },
  };
}
