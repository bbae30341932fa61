// A plugin. Each hook below is ready to use and changes nothing yet; delete those
// that you do not want, for what is exported is asked. The gateway runs this file
// as it is: save it, and it is live.
//
// What hooks are told and may answer: wayleave.d.ts, which editors read.

// @ts-check
/// <reference path="./wayleave.d.ts" />

// Each import needs its grant in the config: grants = ["log"].
// import { log } from "wayleave:plugin/log@1.0.0";

/**
 * Once for each guest, before anything else. A guest's memory is a cache: there
 * are several guests, and each may be replaced at any call.
 * @param {string} settings The plugin's `settings` of the config, as JSON.
 * @returns {Readiness}
 */
export function init(settings) {
  const { ...unknown } = JSON.parse(settings);
  for (const key of Object.keys(unknown)) return { tag: "failed", val: `settings: unknown key \`${key}\`` };
  return "ready";
}

/**
 * Once for each new version of this file, before it goes live.
 * @returns {Readiness}
 */
export function selfTest() {
  return "ready";
}

/**
 * Who is it? Asked if the config's `auth.plugins` names the plugin.
 * @param {Hello} hello
 * @returns {Authentication}
 */
export function authenticate(hello) {
  return "abstain";
}

/**
 * May it join, and what may it do there? For each join.
 * @param {Client} who
 * @param {JoinRequest} request
 * @returns {Admission}
 */
export function authorize(who, request) {
  return { tag: "allow", val: { publish: "configured", presence: "configured", info: "" } };
}

/**
 * May it say this? For each message, first.
 * @param {Client} sender
 * @param {Message} message
 * @returns {Permit}
 */
export function authorizePublish(sender, message) {
  return "allow";
}

/**
 * What becomes of it? For each message.
 * @param {Client} sender
 * @param {Message} message
 * @returns {Verdict}
 */
export function transform(sender, message) {
  return "pass";
}

/**
 * Who gets it? For each message, last.
 * @param {Client} sender
 * @param {Message} message
 * @returns {Routing}
 */
export function route(sender, message) {
  return "pass";
}

/**
 * This happened: somebody connected, disconnected, joined or left.
 * @param {RoomEvent} event
 * @returns {Action[]}
 */
export function observe(event) {
  return [];
}

/**
 * Every period; the config must then have `tick = "10s"`, or so.
 * @param {Moment} moment
 * @returns {Action[]}
 */
export function tick(moment) {
  return [];
}

/**
 * A client calls a method (rpc), or sends something (an empty method).
 * @param {Client} caller
 * @param {string} method
 * @param {Payload} payload
 * @returns {Answer}
 */
export function call(caller, method, payload) {
  return "unknown";
}
