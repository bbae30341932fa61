// Who may be in which room. Nothing here knows of the gateway.

const GROUP = "group:";

interface Rule {
  /** The room pattern between its `*`. */
  parts: string[];
  /** How many characters it fixes. */
  fixed: number;
  users: Set<string>;
  groups: Set<string>;
}

export class Members {
  /** The most exact first. */
  private readonly rules: Rule[];
  private readonly otherwise: boolean;

  /** `settings` is the plugin's table of the config, as JSON. Throws what is wrong with it. */
  constructor(settings: string) {
    const { rooms = {}, otherwise = "refuse", ...unknown } = JSON.parse(settings);
    for (const key of Object.keys(unknown)) {
      throw new Error(`settings: unknown key \`${key}\``);
    }
    if (otherwise !== "allow" && otherwise !== "refuse") {
      throw new Error("settings: `otherwise` must be `allow` or `refuse`");
    }
    if (typeof rooms !== "object" || rooms === null || Array.isArray(rooms)) {
      throw new Error("settings: `rooms` must be a table of patterns");
    }
    this.otherwise = otherwise === "allow";
    // The order of a TOML table is not kept, so it cannot decide between two
    // patterns that match. The one that fixes more of the name does; a tie is
    // broken by the alphabet, only so that all guests decide alike.
    this.rules = Object.entries(rooms)
      .map(([pattern, entries]) => ({ pattern, ...rule(pattern, entries) }))
      .sort((a, b) => b.fixed - a.fixed || (a.pattern < b.pattern ? -1 : 1));
  }

  /** Whether `user` may join; `info` is the JSON of the connection, or empty. */
  admits(room: string, user: string, info: string): boolean {
    if (user === "") return false;
    const rule = this.rules.find((rule) => matches(rule.parts, room));
    if (!rule) return this.otherwise;
    if (rule.users.has(user)) return true;
    return rule.groups.size > 0 && groupsOf(info).some((group) => rule.groups.has(group));
  }
}

function rule(pattern: string, entries: unknown): Rule {
  if (!Array.isArray(entries) || !entries.every((entry) => typeof entry === "string")) {
    throw new Error(`settings: \`rooms.${pattern}\` must be a list of users and groups`);
  }
  const parts = pattern.split("*");
  // An entry is a user or a group, never both: a user whose id happens to be
  // `group:staff` does not become one of the staff.
  return {
    parts,
    fixed: parts.join("").length,
    users: new Set(entries.filter((entry) => !entry.startsWith(GROUP))),
    groups: new Set(entries.filter((entry) => entry.startsWith(GROUP)).map((entry) => entry.slice(GROUP.length))),
  };
}

/**
 * Whether `room` is the parts in this order, with any run of characters between
 * them. Not a regular expression: with several `*` those can take very long for
 * names that a client makes up.
 */
function matches(parts: string[], room: string): boolean {
  const first = parts[0]!;
  if (parts.length === 1) return room === first;
  const last = parts.at(-1)!;
  if (!room.startsWith(first)) return false;
  let at = first.length;
  for (const part of parts.slice(1, -1)) {
    const found = room.indexOf(part, at);
    if (found < 0) return false;
    at = found + part.length;
  }
  return room.length - last.length >= at && room.endsWith(last);
}

/** The `groups` of the info; whatever is not as expected gives none. */
function groupsOf(info: string): string[] {
  if (info === "") return [];
  const { groups } = JSON.parse(info) ?? {};
  return Array.isArray(groups) ? groups : [];
}
