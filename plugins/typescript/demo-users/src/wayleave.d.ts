// The part of the gateway's interfaces that this plugin uses, as the compiled
// component sees it. The whole of it, with what each field means: `wit/deps/wayleave`.

type Attributes = [name: string, value: string][];

type Payload = { tag: "text"; val: string } | { tag: "binary"; val: Uint8Array };

interface Hello {
  connection: string;
  /** Empty when the client sent none. */
  token: string;
  /** `option` is null here, never undefined: compare by `== null`. */
  data: Payload | null;
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
  /** Milliseconds since 1970 when the connection is to end; 0 for never. A `u64` is a number here, not a bigint. */
  expiresAt: number;
  attributes: Attributes;
}

interface Refusal {
  code: number;
  reason: string;
  temporary: boolean;
}

type Authentication = { tag: "accept"; val: Identity } | { tag: "refuse"; val: Refusal } | { tag: "abstain" };
