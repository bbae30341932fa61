import assert from "node:assert/strict";
import { test } from "node:test";
import { changed, nameOf, payloadOf, people, reading, stampOf } from "../src/words.js";

test("somebody is called by the name of their info, else by their id", () => {
  assert.equal(nameOf({ user: "ada", connInfo: { name: "Ada" } }), "Ada");
  assert.equal(nameOf({ user: "ada", connInfo: { name: { toString: 1 } } }), "ada");
  assert.equal(nameOf({ user: "ada", connInfo: null }), "ada");
  assert.equal(nameOf({ user: "" }), "nobody in particular");
  assert.equal(nameOf(undefined), "nobody in particular");
});

test("a typed line is a text, or an object as JSON", () => {
  assert.deepEqual(payloadOf("hello"), { text: "hello" });
  assert.deepEqual(payloadOf('{"customer":"bob"}'), { customer: "bob" });
  assert.deepEqual(payloadOf("{ not json"), { text: "{ not json" });
  assert.deepEqual(payloadOf("7"), { text: "7" });
});

test("payloads become something to read", () => {
  assert.deepEqual(reading({ text: "hi" }), { kind: "text", text: "hi" });
  assert.deepEqual(reading({ text: "hi", more: 1 }), { kind: "json", text: '{"text":"hi","more":1}' });
  for (const data of [null, 7, "x", [], { text: 7 }, {}]) assert.deepEqual(reading(data), { kind: "json", text: JSON.stringify(data) });
  assert.deepEqual(reading({ kind: "mention", room: "chat:1", from: "ada", data: { text: "hi @bob" } }),
    { kind: "mention", text: "hi @bob", note: "mentioned you in chat:1" });
  assert.deepEqual(reading({ kind: "announcement", from: "ada", text: "hello" }),
    { kind: "announcement", text: "hello", note: "announces" });
});

test("marks that turn the writing around are shown in JSON", () => {
  assert.equal(reading(["\u202eabc\u2066"]).text, '["\\u202eabc\\u2066"]');
  assert.deepEqual(JSON.parse(reading(["\u202eabc\u2066"]).text), ["\u202eabc\u2066"]);
});

test("a stamp tells the generation and the plugins", () => {
  assert.equal(stampOf(undefined), undefined);
  assert.deepEqual(stampOf({ generation: "7", plugins: "moderation@3 mentions@1" }),
    { generation: "7", plugins: ["moderation@3", "mentions@1"] });
  assert.deepEqual(stampOf({ generation: "7", plugins: "" }), { generation: "7", plugins: [] });
});

test("two devices are one person, and nobody in particular comes last", () => {
  const members = [{ user: "" }, { user: "bob" }, { user: "ada", connInfo: { name: "Ada" } }, { user: "bob" }];
  assert.deepEqual(people(members).map(({ name, connections }) => [name, connections]),
    [["Ada", 1], ["bob", 2], ["nobody in particular", 1]]);
});

test("a reload names the plugins that it replaced", () => {
  const status = (...plugins) => ({ plugins: plugins.map(([name, generation]) => ({ name, generation })) });
  assert.deepEqual(changed(status(["a", 1], ["b", 1]), status(["a", 2], ["b", 1], ["c", 1])), ["a@2", "c@1"]);
  assert.deepEqual(changed(undefined, status(["a", 1])), ["a@1"]);
});
