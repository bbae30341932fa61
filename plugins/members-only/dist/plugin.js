// src/members.ts
var GROUP = "group:";
var Members = class {
  /** The most exact first. */
  rules;
  otherwise;
  /** `settings` is the plugin's table of the config, as JSON. Throws what is wrong with it. */
  constructor(settings) {
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
    this.rules = Object.entries(rooms).map(([pattern, entries]) => ({ pattern, ...rule(pattern, entries) })).sort((a, b) => b.fixed - a.fixed || (a.pattern < b.pattern ? -1 : 1));
  }
  /** Whether `user` may join; `info` is the JSON of the connection, or empty. */
  admits(room, user, info) {
    if (user === "") return false;
    const rule2 = this.rules.find((rule3) => matches(rule3.parts, room));
    if (!rule2) return this.otherwise;
    if (rule2.users.has(user)) return true;
    return rule2.groups.size > 0 && groupsOf(info).some((group) => rule2.groups.has(group));
  }
};
function rule(pattern, entries) {
  if (!Array.isArray(entries) || !entries.every((entry) => typeof entry === "string")) {
    throw new Error(`settings: \`rooms.${pattern}\` must be a list of users and groups`);
  }
  const parts = pattern.split("*");
  return {
    parts,
    fixed: parts.join("").length,
    users: new Set(entries.filter((entry) => !entry.startsWith(GROUP))),
    groups: new Set(entries.filter((entry) => entry.startsWith(GROUP)).map((entry) => entry.slice(GROUP.length)))
  };
}
function matches(parts, room) {
  const first = parts[0];
  if (parts.length === 1) return room === first;
  const last = parts.at(-1);
  if (!room.startsWith(first)) return false;
  let at = first.length;
  for (const part of parts.slice(1, -1)) {
    const found = room.indexOf(part, at);
    if (found < 0) return false;
    at = found + part.length;
  }
  return room.length - last.length >= at && room.endsWith(last);
}
function groupsOf(info) {
  if (info === "") return [];
  const { groups } = JSON.parse(info) ?? {};
  return Array.isArray(groups) ? groups : [];
}

// src/plugin.ts
var members;
var lifecycle = {
  init(settings) {
    try {
      members = new Members(settings);
      return { tag: "ready" };
    } catch (error) {
      return { tag: "failed", val: error.message };
    }
  }
};
var authorize = {
  // Not async: the gateway would get a promise, which is no answer and a trap.
  join(who, request) {
    if (members.admits(request.room, who.user, who.info)) {
      return {
        tag: "allow",
        // What a member may do is left to the room's entry in the config.
        val: { publish: "configured", presence: "configured", info: "", data: null, attributes: [] }
      };
    }
    return { tag: "refuse", val: { code: 0, reason: "members only", temporary: false } };
  }
};
export {
  authorize,
  lifecycle
};
