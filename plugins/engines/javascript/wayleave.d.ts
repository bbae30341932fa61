// The gateway's interfaces, version 1.0.0, as scripts see them. What each field
// means in full: `wit/1.0.0` of the gateway.
//
// A hook is an exported function: init, selfTest, authenticate, authorize,
// authorizePublish, transform, route, observe, tick, call. A case that holds
// nothing may be answered by its name alone: `"pass"` for `{ tag: "pass" }`. An
// option without a value arrives as null, and may be answered as null or left out.

/** Names with values. What will grow without breaking plugins grows here. */
type Attributes = [name: string, value: string][];

/** `text` holds one valid JSON value, and must do so in answers. */
type Payload = { tag: "text"; val: string } | { tag: "binary"; val: Uint8Array };

/** The connection on whose behalf a hook is asked. */
interface Client {
  connection: string;
  /** Empty for an anonymous connection. */
  user: string;
  /** What authentication attached to the connection: JSON, or empty. */
  info: string;
  attributes: Attributes;
}

interface Message {
  /** Unique among all instances. */
  id: string;
  room: string;
  payload: Payload;
  attributes: Attributes;
}

/** Who is to receive, or to be acted upon. */
type Target =
  | { tag: "room"; val: string }
  | { tag: "user"; val: string }
  | { tag: "connection"; val: string }
  /** All rooms whose names match, `*` standing for any run of characters. */
  | { tag: "pattern"; val: string }
  | { tag: "everyone" }
  | "everyone";

interface Delivery {
  to: Target[];
  /** Whoever one of these reaches receives nothing. */
  except?: Target[];
  /** None: the payload of the message in hand. */
  payload?: Payload | null;
  attributes?: Attributes;
}

/** A "no" with its reason, sent to the client as an error reply. */
interface Refusal {
  /** 400 to 1999 are the plugin's own; 0 stands for 103, permission denied. */
  code: number;
  /** For people; at most 255 bytes are passed on. */
  reason: string;
  /** True: the client may try the same again later. */
  temporary?: boolean;
}

type Refuse = { tag: "refuse"; val: Refusal };

type Action =
  | { tag: "send"; val: Delivery }
  /** `who` is a connection or a user. */
  | { tag: "join"; val: { who: Target; room: string } }
  | { tag: "leave"; val: { who: Target; room: string } }
  | { tag: "set-info"; val: { connection: string; info: string } }
  /** 4000 to 4499: the client reconnects; 4500 to 4999: it stays away; 0: 3503. */
  | { tag: "disconnect"; val: { who: Target; code: number; reason: string } }
  /** `record` writes a document of a room; `arguments` are a JSON object. */
  | { tag: "perform"; val: { name: string; arguments: string } };

/** Answered by init(settings) and selfTest(). */
type Readiness = "ready" | { tag: "ready" } | { tag: "failed"; val: string };

interface Hello {
  connection: string;
  /** Empty when the client sent none. */
  token: string;
  data: Payload | null;
  /** The client library's name and version as it gives them. */
  name: string;
  version: string;
  attributes: Attributes;
}

interface Identity {
  /** Empty for an anonymous connection. */
  user: string;
  /** JSON that presence and plugins see with the user; empty for none. */
  info: string;
  /** Rooms that the connection is in from the start. */
  rooms: string[];
  /** Milliseconds since 1970 when the connection is to end; 0 for never. */
  expiresAt: number | bigint;
  attributes?: Attributes;
}

/** Answered by authenticate(hello). */
type Authentication = { tag: "accept"; val: Identity } | Refuse | "abstain" | { tag: "abstain" };

interface JoinRequest {
  room: string;
  /** The subscription token; empty when the client sent none. */
  token: string;
  data: Payload | null;
  attributes: Attributes;
}

/** `configured`: as the room's entry in the config says. */
type Permission = "configured" | "granted" | "denied";

interface Terms {
  publish: Permission;
  presence: Permission;
  /** JSON shown beside the member in presence; empty for none. */
  info: string;
  /** Returned to the client with the reply. */
  data?: Payload | null;
  attributes?: Attributes;
}

/** Answered by authorize(who, request). */
type Admission = { tag: "allow"; val: Terms } | Refuse;

/** Answered by authorizePublish(sender, message). */
type Permit = "allow" | { tag: "allow" } | Refuse;

/** Answered by transform(sender, message). */
type Verdict = "pass" | "drop" | { tag: "pass" } | { tag: "replace"; val: Payload } | { tag: "drop" } | Refuse;

/** Answered by route(sender, message). */
type Routing = "pass" | { tag: "pass" } | { tag: "add"; val: Delivery[] } | { tag: "replace"; val: Delivery[] } | Refuse;

/** Told to observe(event), which answers with a list of actions. */
interface RoomEvent {
  /** `connected`, `disconnected`, `joined`, `left`; more will come. */
  kind: string;
  who: Client;
  /** The room of `joined` and `left`; empty otherwise. */
  room: string;
  attributes: Attributes;
}

/** Told to tick(moment), which answers with a list of actions. */
interface Moment {
  /** Milliseconds since 1970, by the clock of the instance that asks. */
  now: number;
  /** Milliseconds of the period. */
  period: number;
  attributes: Attributes;
}

/** Answered by call(caller, method, payload). */
type Answer =
  | { tag: "reply"; val: { payload: Payload; actions?: Action[] } }
  | Refuse
  /** Not a method of this plugin: the next one is asked. */
  | "unknown"
  | { tag: "unknown" };

declare module "wayleave:plugin/log" {
  export function log(level: "debug" | "info" | "warn" | "error", message: string): void;
}

declare module "wayleave:plugin/kv" {
  export function get(key: string): { tag: "value"; val: Payload } | { tag: "missing" } | { tag: "unavailable" };
  /** `ttl` in milliseconds; 0, or none, keeps the value until it is deleted. */
  export function set(key: string, value: Payload, ttl?: number): "ok" | "quota" | "too-large" | "unavailable";
  function remove(key: string): "ok" | "missing" | "unavailable";
  export { remove as delete };
  /** Adds to a whole number, atomically; a missing key counts as 0. */
  export function increment(
    key: string,
    by?: number | bigint,
    ttl?: number,
  ): { tag: "value"; val: number } | { tag: "not-a-number" | "quota" | "too-large" | "unavailable" };
}

declare module "wayleave:plugin/lookup" {
  export interface Member {
    connection: string;
    user: string;
    info: string;
  }
  export function count(room: string): { tag: "counts"; val: { connections: number; users: number } } | { tag: "unavailable" };
  /** At most `limit` members, at most 1,000. */
  export function members(room: string, limit?: number): { tag: "members"; val: Member[] } | { tag: "unavailable" };
  export function connections(user: string): { tag: "connections"; val: string[] } | { tag: "unavailable" };
}

declare module "wayleave:plugin/clock" {
  /** Milliseconds since 1970; `Date` shows the same. */
  export function now(): number;
  /** Nanoseconds since an unspecified start. */
  export function monotonic(): number;
}

declare module "wayleave:plugin/random" {
  /** At most 4,096 bytes, fit for secrets; `Math.random()` is not. */
  export function bytes(length: number): Uint8Array;
  /** From 0 to 2^53 - 1. */
  export function number(): number;
}

declare module "wayleave:plugin/metrics" {
  export function count(name: string, by?: number): void;
  export function gauge(name: string, value: number): void;
  export function observe(name: string, seconds: number): void;
}

declare module "wayleave:plugin/secrets" {
  export function get(name: string): { tag: "value"; val: string } | { tag: "missing" };
}

declare module "wayleave:plugin/http" {
  export interface Request {
    method: string;
    /** Whole, as in `https://example.com/path?x=1`. */
    url: string;
    headers?: Attributes;
    body?: Payload | null;
    /** Milliseconds; 0, or none, stands for what the plugin's `timeout` leaves. */
    timeout?: number;
  }
  export interface Response {
    status: number;
    headers: Attributes;
    body: Payload;
  }
  export function send(
    request: Request,
  ):
    | { tag: "response"; val: Response }
    | { tag: "forbidden"; val: string }
    | { tag: "too-large" }
    | { tag: "timeout" }
    | { tag: "failed"; val: string };
}

// With its version, a name says what it was written for.
declare module "wayleave:plugin/log@1.0.0" {
  export * from "wayleave:plugin/log";
}
declare module "wayleave:plugin/kv@1.0.0" {
  export * from "wayleave:plugin/kv";
}
declare module "wayleave:plugin/lookup@1.0.0" {
  export * from "wayleave:plugin/lookup";
}
declare module "wayleave:plugin/clock@1.0.0" {
  export * from "wayleave:plugin/clock";
}
declare module "wayleave:plugin/random@1.0.0" {
  export * from "wayleave:plugin/random";
}
declare module "wayleave:plugin/metrics@1.0.0" {
  export * from "wayleave:plugin/metrics";
}
declare module "wayleave:plugin/secrets@1.0.0" {
  export * from "wayleave:plugin/secrets";
}
declare module "wayleave:plugin/http@1.0.0" {
  export * from "wayleave:plugin/http";
}

/** Lines into the gateway's log; without the grant `log` they go nowhere. */
declare const console: Record<"debug" | "log" | "info" | "warn" | "error", (...values: unknown[]) => void>;

declare class TextEncoder {
  encode(text?: string): Uint8Array;
}

declare class TextDecoder {
  constructor(label?: "utf-8" | "utf8" | "UTF-8", options?: { fatal?: boolean });
  decode(bytes?: Uint8Array | ArrayBuffer): string;
}
