// The part of the gateway's interfaces that this plugin uses, as the compiled
// component sees it. The whole of it, with what each field means: `wit/deps/wayleave`.

type Attributes = [name: string, value: string][];

type Payload = { tag: "text"; val: string } | { tag: "binary"; val: Uint8Array };

interface Client {
  connection: string;
  /** Empty for an anonymous connection. */
  user: string;
  /** What authentication attached to the connection: JSON, or empty. */
  info: string;
  attributes: Attributes;
}

interface JoinRequest {
  room: string;
  token: string;
  /** `option` is null here, never undefined: compare by `== null`. */
  data: Payload | null;
  attributes: Attributes;
}

interface Refusal {
  code: number;
  reason: string;
  temporary: boolean;
}

type Permission = "configured" | "granted" | "denied";

interface Terms {
  publish: Permission;
  presence: Permission;
  info: string;
  data: Payload | null;
  attributes: Attributes;
}

type Admission = { tag: "allow"; val: Terms } | { tag: "refuse"; val: Refusal };

type Readiness = { tag: "ready" } | { tag: "failed"; val: string };
