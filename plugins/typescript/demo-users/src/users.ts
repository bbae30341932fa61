// Who a demo token stands for. Nothing here knows of the gateway.

const TOKEN = /^demo-([a-z0-9][a-z0-9_-]{0,31})$/;

export interface User {
  id: string;
  /** For people to read. */
  name: string;
}

/** The user of a token such as `demo-ada`; none if it is no demo token. */
export function userOf(token: string): User | undefined {
  const id = TOKEN.exec(token)?.[1];
  return id === undefined ? undefined : { id, name: id[0]!.toUpperCase() + id.slice(1) };
}
