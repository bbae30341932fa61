// Tells mentioned users, and takes announcements to several rooms.
//
// This file speaks with the gateway; text.ts reads what people write and is
// tested without one.

import { parseSettings, type Settings } from "./settings";
import { announcement, field, mayConcern, mentions } from "./text";

// Set by `init`, which the gateway calls before anything else.
let settings: Settings;

export function init(json: string): Readiness {
  try {
    settings = parseSettings(json);
    return "ready";
  } catch (error) {
    return { tag: "failed", val: (error as Error).message };
  }
}

export function route(sender: Client, message: Message): Routing {
  if (message.payload.tag !== "text") return "pass";
  const json = message.payload.val;
  // Most messages mention nobody: they are not parsed.
  if (!mayConcern(json)) return "pass";
  const written = field(json, settings.field);
  if (written === undefined) return "pass";
  const announced = announcement(written);
  if (announced !== undefined) return announce(sender.user, announced);
  const names = mentions(written, sender.user, settings.maxMentions);
  if (names.length === 0) return "pass";
  // The message as it came, byte for byte: JSON.parse would round large numbers.
  const about = JSON.stringify({ kind: "mention", room: message.room, from: sender.user });
  const mention = `${about.slice(0, -1)},"data":${json}}`;
  return { tag: "add", val: [delivery(names.map((name) => ({ tag: "user", val: name })), mention)] };
}

function announce(user: string, text: string): Routing {
  if (!settings.announcers.includes(user)) {
    return { tag: "refuse", val: { code: 403, reason: "you are not one of the announcers" } };
  }
  const rooms = settings.announceRooms.map((room): Target => ({ tag: "room", val: room }));
  return { tag: "replace", val: [delivery(rooms, JSON.stringify({ kind: "announcement", from: user, text }))] };
}

/** One delivery for all: the payload is the same, and crosses over only once. */
function delivery(to: Target[], json: string): Delivery {
  return { to, payload: { tag: "text", val: json } };
}
