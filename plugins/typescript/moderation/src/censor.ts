// Finds listed words in text, without regard to case, and masks them.

/** A word, as far as the list is concerned: a run of letters and digits. */
const WORD = /[\p{Alphabetic}\p{N}]+/gu;
const LETTER = /[\p{Alphabetic}\p{N}]/uy;
const ASCII = /^[\0-\x7f]*$/;

/** Half a surrogate pair: valid as JSON, but nobody can read or check it. */
export class NotUnicode extends Error {}

export class Censor {
  /**
   * The listed texts by their first word, folded. One pattern for all would
   * be shorter, but it would try each of them at every place of a message.
   */
  private readonly listed = new Map<string, string[]>();
  /** What it matches holds nothing that is listed; most messages are such. */
  private readonly clean: RegExp;

  constructor(words: string[]) {
    // The longest first, so that of `bad` and `bad word` the phrase counts.
    for (const text of words.toSorted((a, b) => b.length - a.length)) {
      const first = text.match(WORD)?.[0];
      if (first === undefined || !text.startsWith(first)) {
        throw new Error(`words: \`${text}\` must begin with a letter or a digit`);
      }
      const key = fold(first);
      this.listed.set(key, [...(this.listed.get(key) ?? []), text]);
    }
    this.clean = clean(words);
  }

  /**
   * `json` with its string values masked, or undefined if there was nothing to
   * mask. Keys, numbers and white space stay as they are, byte for byte: that
   * is why it does not go through JSON.parse as a whole, which would round
   * large numbers. Throws NotUnicode.
   */
  maskJson(json: string): string | undefined {
    // Nearly all messages are clean, and this tells most of them at once. The
    // next does so for other scripts, or where a word is part of another.
    if (this.clean.test(json)) return undefined;
    // With an escape, which may stand for a letter, only decoding tells.
    if (!json.includes("\\") && !json.match(WORD)?.some((word) => this.listed.has(fold(word)))) {
      return undefined;
    }
    let found = false;
    const masked = json.replace(/"[^"\\]*(?:\\.[^"\\]*)*"(\s*:)?/g, (literal, colon) => {
      const isKey = colon !== undefined;
      if (isKey) return literal;
      const text: string = JSON.parse(literal);
      if (!text.isWellFormed()) throw new NotUnicode("the text is not valid Unicode");
      const clean = this.mask(text);
      if (clean === undefined) return literal;
      found = true;
      return JSON.stringify(clean);
    });
    return found ? masked : undefined;
  }

  private mask(text: string): string | undefined {
    let masked = "";
    let copied = 0;
    WORD.lastIndex = 0;
    for (let word = WORD.exec(text); word; word = WORD.exec(text)) {
      const at = word.index;
      const length = this.listed.get(fold(word[0]))?.find((listed) => isAt(text, at, listed))?.length;
      if (length === undefined) continue;
      const found = text.slice(at, at + length);
      masked += text.slice(copied, at) + "*".repeat([...found].length);
      copied = WORD.lastIndex = at + length;
    }
    return copied === 0 ? undefined : masked + text.slice(copied);
  }
}

/** Lists longer than this are looked up word by word, not matched. */
const MATCHED_MAX = 32;

/**
 * Matches texts of ASCII without escapes where no listed word begins. Written
 * for speed: a run of characters that begin no word is skipped as one, and case
 * is spelled out, since the flag `i` costs three times as much.
 */
function clean(words: string[]): RegExp {
  // Never matches: each message is looked at word by word.
  if (words.length === 0 || words.length > MATCHED_MAX) return /[]/;
  const either = (c: string) => `[${c.toLowerCase()}${c.toUpperCase()}]`;
  // The rest of a text, its other characters left out, is not needed to suspect it.
  const starts = words.map((text) => /^[a-z0-9]+/i.exec(text)?.[0] ?? "").filter((start) => start !== "");
  const firsts = [...new Set(starts.map((start) => start[0]!.toLowerCase() + start[0]!.toUpperCase()))].join("");
  const rests = [...new Set(starts.map((start) => [...start.slice(1)].map(either).join("")))].join("|");
  const skipped = `[^${firsts}\\\\\x80-\uffff]*`;
  return new RegExp(firsts === "" ? `^${skipped}$` : `^${skipped}(?:[${firsts}](?!${rests})${skipped})*$`);
}

/** Whether `listed` stands there, and ends where a word may end. */
function isAt(text: string, at: number, listed: string): boolean {
  const end = at + listed.length;
  if (fold(text.slice(at, end)) !== fold(listed)) return false;
  LETTER.lastIndex = end;
  return !LETTER.test(text);
}

/** Makes upper and lower case one, and keeps the number of letters. */
function fold(text: string): string {
  return ASCII.test(text) ? text.toLowerCase() : [...text].map(foldLetter).join("");
}

/**
 * By way of the upper case, as `ς` and `σ` have the same. A letter that has no
 * single counterpart stays as it is: otherwise `aß` would be an `ass`.
 */
function foldLetter(letter: string): string {
  const upper = single(letter.toUpperCase()) ?? letter;
  return single(upper.toLowerCase()) ?? upper;
}

function single(text: string): string | undefined {
  return [...text].length === 1 ? text : undefined;
}
