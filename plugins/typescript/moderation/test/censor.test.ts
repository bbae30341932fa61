import assert from "node:assert/strict";
import { test } from "node:test";
import { Censor, NotUnicode } from "../src/censor";
import { parseSettings } from "../src/settings";

function checkMasked(words: string[], json: string, expected: string) {
  assert.equal(new Censor(words).maskJson(json), expected);
  JSON.parse(expected);
}

function checkClean(words: string[], json: string) {
  assert.equal(new Censor(words).maskJson(json), undefined);
}

test("whole words are masked without regard to case", () => {
  checkMasked(["darn"], '{"text":"Darn it, DARN!"}', '{"text":"**** it, ****!"}');
  checkMasked(["DARN"], '"darn"', '"****"');
});

test("parts of words are left alone", () => {
  checkClean(["ass"], '{"text":"a classic assembly, ass3"}');
});

test("keys and numbers stay as they are", () => {
  checkClean(["darn", "12"], '{"darn":12}');
  checkMasked(
    ["darn", "1"],
    '{ "darn" : 1.0, "n": 12345678901234567890, "a": ["darn", {"b":"1"}] }',
    '{ "darn" : 1.0, "n": 12345678901234567890, "a": ["****", {"b":"*"}] }',
  );
});

test("letters of escapes are no part of a word", () => {
  checkMasked(["darn"], String.raw`{"text":"so\ndarn\\darn\"darn\""}`, String.raw`{"text":"so\n****\\****\"****\""}`);
  checkClean(["no"], String.raw`{"text":"\nono"}`);
});

test("escaped letters do not hide a word", () => {
  checkMasked(["darn"], String.raw`{"text":"d\u0061rn"}`, '{"text":"****"}');
  checkClean(["darn"], String.raw`{"text":"d\u0061re"}`);
});

test("other scripts are folded and bounded too", () => {
  checkMasked(["käse"], '"“KÄSE” und Käsekuchen"', '"“****” und Käsekuchen"');
  checkMasked(["κακός"], '"ΚΑΚΌΣ"', '"*****"');
  checkMasked(["плохо"], '"Плохо…"', '"*****…"');
});

test("a letter is folded to one letter or not at all", () => {
  checkClean(["ass", "fig"], '"aß ﬁg"');
  checkMasked(["straße"], '"STRAẞE STRASSE"', '"****** STRASSE"');
});

test("of two phrases the longer counts", () => {
  checkMasked(["bad", "bad word"], '"bad word, bad words, bad"', '"********, *** words, ***"');
  checkMasked(["c++"], '"C++ and c++17"', '"*** and c++17"');
});

test("half a surrogate pair is an error", () => {
  assert.throws(() => new Censor(["darn"]).maskJson(String.raw`{"text":"\ud800 darn"}`), NotUnicode);
});

test("a text that cannot be found is refused", () => {
  assert.throws(() => new Censor(["!!"]), /`!!`/);
  assert.throws(() => new Censor([""]), /words/);
});

test("mistakes in the settings are named", () => {
  assert.deepEqual(parseSettings('{"words":[]}'), { words: [], action: "mask" });
  assert.throws(() => parseSettings("{}"), /`words`/);
  assert.throws(() => parseSettings('{"words":[],"action":"hide"}'), /`action`/);
  assert.throws(() => parseSettings('{"words":[],"word":[]}'), /unknown key `word`/);
});

test("a list of any kind finds what it lists", () => {
  const many = Array.from({ length: 40 }, (_, i) => `word${i}`);
  checkMasked(many, '"a Word7 and word39."', '"a ***** and ******."');
  checkMasked(["a"], '"A b"', '"* b"');
  checkMasked(["käse", "b"], '"Käse b"', '"**** *"');
  checkMasked(["kelvin"], '"\u212Aelvin"', '"******"');
  checkMasked(["das ß"], '"DAS ß"', '"*****"');
  checkClean(["hello-all"], '"hello there"');
  checkClean([], '"hello"');
});

// What took the square of its length would not come to an end.
test("a long text is looked at once", { timeout: 60_000 }, () => {
  checkClean(["darn", "heck"], JSON.stringify("so it goes on and on, ".repeat(20_000) + "é"));
  checkClean(["darn", "heck"], JSON.stringify("d".repeat(400_000) + "é"));
  checkClean(["darn", "heck"], JSON.stringify("dé h ".repeat(80_000)));
});
