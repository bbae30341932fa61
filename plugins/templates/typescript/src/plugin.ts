// A plugin. Each hook below is ready to use and changes nothing yet; delete those
// that you do not want, for what is exported is asked. The gateway runs this
// once it is bundled; `wayleave dev` does so at each save.
//
// What hooks are told and may answer: wayleave.d.ts.

// Each import needs its grant in the config: grants = ["log"].
// import { log } from "wayleave:plugin/log@1.0.0";

/**
 * Once for each guest, before anything else. A guest's memory is a cache: there
 * are several guests, and each may be replaced at any call. `settings` is
 * the plugin's table of the config, as JSON.
 */
export function init(settings: string): Readiness {
  const { ...unknown } = JSON.parse(settings);
  for (const key of Object.keys(unknown)) return { tag: "failed", val: `settings: unknown key \`${key}\`` };
  return "ready";
}

/**
 * Once for each new version of this file, before it goes live.
 */
export function selfTest(): Readiness {
  return "ready";
}

/**
 * Who is it? Asked if the config's `auth.plugins` names the plugin.
 */
export function authenticate(hello: Hello): Authentication {
  return "abstain";
}

/**
 * May it join, and what may it do there? For each join.
 */
export function authorize(who: Client, request: JoinRequest): Admission {
  return { tag: "allow", val: { publish: "configured", presence: "configured", info: "" } };
}

/**
 * May it say this? For each message, first.
 */
export function authorizePublish(sender: Client, message: Message): Permit {
  return "allow";
}

/**
 * What becomes of it? For each message.
 */
export function transform(sender: Client, message: Message): Verdict {
  return "pass";
}

/**
 * Who gets it? For each message, last.
 */
export function route(sender: Client, message: Message): Routing {
  return "pass";
}

/**
 * This happened: somebody connected, disconnected, joined or left.
 */
export function observe(event: RoomEvent): Action[] {
  return [];
}

/**
 * Every period; the config must then have `tick = "10s"`, or so.
 */
export function tick(moment: Moment): Action[] {
  return [];
}

/**
 * A client calls a method (rpc), or sends something (an empty method).
 */
export function call(caller: Client, method: string, payload: Payload): Answer {
  return "unknown";
}
