import assert from "node:assert/strict";
import { test } from "node:test";
import { parseSettings } from "../src/settings";
import { announcement, field, mayConcern, mentions } from "../src/text";

function checkMentions(text: string, expected: string[]) {
  assert.deepEqual(mentions(text, "me", 3), expected);
}

test("names are found between other text", () => {
  checkMentions("@ada and (@grace): ask @j.doe-2.", ["ada", "grace", "j.doe-2"]);
  checkMentions("@Jürgen, @名前!", ["Jürgen", "名前"]);
});

test("each is mentioned once and never the sender", () => {
  checkMentions("@ada @me @ada", ["ada"]);
});

test("addresses and lone signs are no mentions", () => {
  checkMentions("ada@example.com é@b @ @. @@", []);
});

test("there is a limit", () => {
  checkMentions("@a @b @c @d", ["a", "b", "c"]);
});

test("only the named string field counts", () => {
  assert.equal(field(String.raw`{"text":"a\n@b"}`, "text"), "a\n@b");
  for (const json of ['{"text":7}', '{"body":"@b"}', '["@b"]', '"@b"', "null", String.raw`{"text":"\ud800"}`]) {
    assert.equal(field(json, "text"), undefined, json);
  }
  assert.equal(field("{}", "toString"), undefined);
});

test("an announcement begins with the command", () => {
  assert.equal(announcement("/announce we are back "), "we are back");
  assert.equal(announcement("do not /announce it"), undefined);
  assert.equal(announcement("/announcement"), undefined);
  assert.equal(announcement("/announce  "), undefined);
});

test("escapes do not hide anything", () => {
  for (const json of ['{"text":"\\/announce x"}', '{"text":"\\u002f\\u0061nnounce x"}', '{"text":"\\u0040ada"}']) {
    assert(mayConcern(json), json);
  }
  assert(!mayConcern('{"text":"hello\\nthere"}'));
});

test("settings have defaults, and mistakes in them are named", () => {
  assert.deepEqual(parseSettings("{}"), { field: "text", maxMentions: 10, announcers: [], announceRooms: [] });
  assert.throws(() => parseSettings('{"max_mention":1}'), /max_mention/);
  assert.throws(() => parseSettings('{"max_mentions":-1}'), /max_mentions/);
  assert.throws(() => parseSettings('{"announcers":["ada"]}'), /announce_rooms/);
  assert.throws(() => parseSettings('{"announcers":[""],"announce_rooms":["all"]}'), /anonymous/);
});

// What took the square of its length would not come to an end.
test("a long name is looked at once", { timeout: 60_000 }, () => {
  checkMentions(`@${"-".repeat(400_000)}x`, [`${"-".repeat(400_000)}x`]);
  checkMentions(`@a${"-".repeat(400_000)}`, ["a"]);
});
