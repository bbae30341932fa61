// test/censor.test.ts
import assert from "node:assert/strict";
import { test } from "node:test";

// src/censor.ts
var WORD = /[\p{Alphabetic}\p{N}]+/gu;
var LETTER = /[\p{Alphabetic}\p{N}]/uy;
var NotUnicode = class extends Error {
};
var Censor = class {
  /**
   * The listed texts by their first word, folded. One pattern for all would
   * be shorter, but it would try each of them at every place of a message.
   */
  listed = /* @__PURE__ */ new Map();
  constructor(words) {
    for (const text of words.toSorted((a, b) => b.length - a.length)) {
      const first = text.match(WORD)?.[0];
      if (first === void 0 || !text.startsWith(first)) {
        throw new Error(`words: \`${text}\` must begin with a letter or a digit`);
      }
      const key = fold(first);
      this.listed.set(key, [...this.listed.get(key) ?? [], text]);
    }
  }
  /**
   * `json` with its string values masked, or undefined if there was nothing to
   * mask. Keys, numbers and white space stay as they are, byte for byte: that
   * is why it does not go through JSON.parse as a whole, which would round
   * large numbers. Throws NotUnicode.
   */
  maskJson(json) {
    if (!json.includes("\\") && !json.match(WORD)?.some((word) => this.listed.has(fold(word)))) {
      return void 0;
    }
    let found = false;
    const masked = json.replace(/"[^"\\]*(?:\\.[^"\\]*)*"(\s*:)?/g, (literal, colon) => {
      const isKey = colon !== void 0;
      if (isKey) return literal;
      const text = JSON.parse(literal);
      if (!text.isWellFormed()) throw new NotUnicode("the text is not valid Unicode");
      const clean = this.mask(text);
      if (clean === void 0) return literal;
      found = true;
      return JSON.stringify(clean);
    });
    return found ? masked : void 0;
  }
  mask(text) {
    let masked = "";
    let copied = 0;
    WORD.lastIndex = 0;
    for (let word = WORD.exec(text); word; word = WORD.exec(text)) {
      const at = word.index;
      const length = this.listed.get(fold(word[0]))?.find((listed) => isAt(text, at, listed))?.length;
      if (length === void 0) continue;
      const found = text.slice(at, at + length);
      masked += text.slice(copied, at) + "*".repeat([...found].length);
      copied = WORD.lastIndex = at + length;
    }
    return copied === 0 ? void 0 : masked + text.slice(copied);
  }
};
function isAt(text, at, listed) {
  const end = at + listed.length;
  if (fold(text.slice(at, end)) !== fold(listed)) return false;
  LETTER.lastIndex = end;
  return !LETTER.test(text);
}
function fold(text) {
  return text.toLowerCase().toUpperCase();
}

// src/settings.ts
var ACTIONS = ["mask", "refuse", "drop"];
function parseSettings(json) {
  const { words, action = "mask", ...unknown } = JSON.parse(json);
  for (const key of Object.keys(unknown)) {
    throw new Error(`settings: unknown key \`${key}\``);
  }
  if (!Array.isArray(words) || !words.every((word) => typeof word === "string")) {
    throw new Error("settings: `words` must be a list of texts");
  }
  if (!ACTIONS.includes(action)) {
    throw new Error(`settings: \`action\` must be one of ${ACTIONS.join(", ")}`);
  }
  return { words, action };
}

// test/censor.test.ts
function checkMasked(words, json, expected) {
  assert.equal(new Censor(words).maskJson(json), expected);
  JSON.parse(expected);
}
function checkClean(words, json) {
  assert.equal(new Censor(words).maskJson(json), void 0);
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
    '{ "darn" : 1.0, "n": 12345678901234567890, "a": ["****", {"b":"*"}] }'
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
  checkMasked(["k\xE4se"], '"\u201CK\xC4SE\u201D und K\xE4sekuchen"', '"\u201C****\u201D und K\xE4sekuchen"');
  checkMasked(["\u03BA\u03B1\u03BA\u03CC\u03C2"], '"\u039A\u0391\u039A\u038C\u03A3"', '"*****"');
  checkMasked(["\u043F\u043B\u043E\u0445\u043E"], '"\u041F\u043B\u043E\u0445\u043E\u2026"', '"*****\u2026"');
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
