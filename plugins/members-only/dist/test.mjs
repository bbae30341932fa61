// test/members.test.ts
import assert from "node:assert/strict";
import { test } from "node:test";

// src/members.ts
var GROUP = "group:";
var Members = class {
  /** The most exact first. */
  rules;
  otherwise;
  /** `settings` is the plugin's table of the config, as JSON. Throws what is wrong with it. */
  constructor(settings2) {
    const { rooms = {}, otherwise = "refuse", ...unknown } = JSON.parse(settings2);
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

// test/members.test.ts
var settings = {
  rooms: {
    "team:*": ["ada", "group:staff"],
    "team:board": ["grace"],
    "*:log:*": ["group:ops"]
  }
};
var members = new Members(JSON.stringify(settings));
var staff = JSON.stringify({ groups: ["staff", "tea"] });
test("listed users may join", () => {
  assert(members.admits("team:red", "ada", ""));
  assert(!members.admits("team:red", "eve", ""));
});
test("members of a listed group may join", () => {
  assert(members.admits("team:red", "eve", staff));
  assert(!members.admits("team:red", "eve", JSON.stringify({ groups: ["guests"] })));
});
test("a user is never taken for a group", () => {
  assert(!members.admits("team:red", "group:staff", ""));
});
test("anonymous users may not, whatever their groups and the settings", () => {
  assert(!members.admits("team:red", "", staff));
  assert(!new Members('{"otherwise":"allow"}').admits("lobby", "", ""));
});
test("the pattern that fixes more of the name counts", () => {
  assert(members.admits("team:board", "grace", ""));
  assert(!members.admits("team:board", "ada", staff));
});
test("a star stands for any run of characters", () => {
  const ops = JSON.stringify({ groups: ["ops"] });
  assert(members.admits("eu:log:disk:full", "eve", ops));
  assert(members.admits(":log:", "eve", ops));
  assert(!members.admits("eu:log", "eve", ops));
  assert(!members.admits("Team:red", "ada", ""));
  assert(!new Members('{"rooms":{"ab*ba":["ada"]}}').admits("aba", "ada", ""));
});
test("rooms that no pattern matches are refused, unless the settings allow them", () => {
  assert(!members.admits("lobby", "ada", ""));
  const open = new Members(JSON.stringify({ ...settings, otherwise: "allow" }));
  assert(open.admits("lobby", "eve", ""));
  assert(!open.admits("team:red", "eve", ""));
});
test("an info without groups gives none", () => {
  for (const info of ["", "{}", "null", "7", '{"groups":"staff"}', '{"groups":[["staff"]]}']) {
    assert(!members.admits("team:red", "eve", info), info);
  }
});
test("mistakes in the settings are named", () => {
  assert.throws(() => new Members('{"otherwise":"deny"}'), /`otherwise`/);
  assert.throws(() => new Members('{"room":{}}'), /unknown key `room`/);
  assert.throws(() => new Members('{"rooms":{"a":"ada"}}'), /`rooms.a`/);
});
