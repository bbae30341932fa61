// Masks, refuses or drops messages that hold a listed word.
//
// This file speaks with the gateway; censor.ts knows words and JSON and is
// tested without one.

import { log } from "wayleave:plugin/log@1.0.0";
import { Censor, NotUnicode } from "./censor";
import { type Action, parseSettings } from "./settings";

// Set by `init`, which the gateway calls before anything else.
let censor: Censor;
let action: Action;

const DONE = { mask: "masked", refuse: "refused", drop: "dropped" };

export function init(settings: string): Readiness {
  try {
    const checked = parseSettings(settings);
    censor = new Censor(checked.words);
    action = checked.action;
    return "ready";
  } catch (error) {
    return { tag: "failed", val: (error as Error).message };
  }
}

export function transform(sender: Client, message: Message): Verdict {
  if (message.payload.tag !== "text") return "pass";
  let masked: string | undefined;
  try {
    masked = censor.maskJson(message.payload.val);
  } catch (error) {
    if (error instanceof NotUnicode) return refuse(400, error.message);
    throw error;
  }
  if (masked === undefined) return "pass";
  log("info", `${DONE[action]} message ${message.id} of \`${sender.user}\` in \`${message.room}\``);
  switch (action) {
    case "mask":
      return { tag: "replace", val: { tag: "text", val: masked } };
    case "refuse":
      return refuse(422, "the message holds a word that is not allowed here");
    case "drop":
      return "drop";
  }
}

function refuse(code: number, reason: string): Refuse {
  return { tag: "refuse", val: { code, reason } };
}
