import assert from "node:assert/strict";
import { test } from "node:test";
import { Members } from "../src/members";

const settings = {
  rooms: {
    "team:*": ["ada", "group:staff"],
    "team:board": ["grace"],
    "*:log:*": ["group:ops"],
  },
};
const members = new Members(JSON.stringify(settings));
const staff = JSON.stringify({ groups: ["staff", "tea"] });

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
