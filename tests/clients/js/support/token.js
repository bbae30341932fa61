// Tokens as an application's backend makes them. Needs nothing but Node.

import { createHmac } from "node:crypto";

export const SECRET = "a secret of the tests, of more than 32 bytes";

/** A JSON web token with HS256. */
export function token(claims, secret = SECRET, algorithm = "HS256") {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const body = `${part({ alg: algorithm, typ: "JWT" })}.${part(claims)}`;
  return `${body}.${createHmac("sha256", secret).update(body).digest("base64url")}`;
}

/** Seconds since 1970, as tokens have them. */
export function seconds(fromNow = 0) {
  return Math.floor(Date.now() / 1000) + fromNow;
}
