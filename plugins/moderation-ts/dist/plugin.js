// src/plugin.ts
import { log } from "wayleave:plugin/log@0.1.0";

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
  const { words, action: action2 = "mask", ...unknown } = JSON.parse(json);
  for (const key of Object.keys(unknown)) {
    throw new Error(`settings: unknown key \`${key}\``);
  }
  if (!Array.isArray(words) || !words.every((word) => typeof word === "string")) {
    throw new Error("settings: `words` must be a list of texts");
  }
  if (!ACTIONS.includes(action2)) {
    throw new Error(`settings: \`action\` must be one of ${ACTIONS.join(", ")}`);
  }
  return { words, action: action2 };
}

// src/plugin.ts
var censor;
var action;
var DONE = { mask: "masked", refuse: "refused", drop: "dropped" };
var lifecycle = {
  init(settings) {
    try {
      const checked = parseSettings(settings);
      censor = new Censor(checked.words);
      action = checked.action;
      return { tag: "ready" };
    } catch (error) {
      return { tag: "failed", val: error.message };
    }
  }
};
var transform = {
  transform(sender, message) {
    if (message.payload.tag !== "text") return { tag: "pass" };
    let masked;
    try {
      masked = censor.maskJson(message.payload.val);
    } catch (error) {
      if (error instanceof NotUnicode) return refuse(400, error.message);
      throw error;
    }
    if (masked === void 0) return { tag: "pass" };
    log("info", `${DONE[action]} message ${message.id} of \`${sender.user}\` in \`${message.room}\``);
    switch (action) {
      case "mask":
        return { tag: "replace", val: { tag: "text", val: masked } };
      case "refuse":
        return refuse(422, "the message holds a word that is not allowed here");
      case "drop":
        return { tag: "drop" };
    }
  }
};
function refuse(code, reason) {
  return { tag: "refuse", val: { code, reason, temporary: false } };
}
export {
  lifecycle,
  transform
};
