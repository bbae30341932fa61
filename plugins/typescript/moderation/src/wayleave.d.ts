// The part of the gateway's interfaces that this plugin uses, as the compiled
// component sees it. The whole of it, with what each field means: `wit/deps/wayleave`.

declare module "wayleave:plugin/log@0.1.0" {
  export function log(level: "debug" | "info" | "warn" | "error", message: string): void;
}

type Attributes = [name: string, value: string][];

/** `text` holds one valid JSON value, and must do so in answers. */
type Payload = { tag: "text"; val: string } | { tag: "binary"; val: Uint8Array };

interface Client {
  connection: string;
  /** Empty for an anonymous connection. */
  user: string;
  info: string;
  attributes: Attributes;
}

interface Message {
  id: string;
  room: string;
  payload: Payload;
  attributes: Attributes;
}

interface Refusal {
  code: number;
  reason: string;
  temporary: boolean;
}

type Readiness = { tag: "ready" } | { tag: "failed"; val: string };

type Verdict =
  | { tag: "pass" }
  | { tag: "replace"; val: Payload }
  | { tag: "drop" }
  | { tag: "refuse"; val: Refusal };
