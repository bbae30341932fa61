// Finds listed words in text, without regard to case, and masks them.

/** A word, as far as the list is concerned: a run of letters and digits. */
const WORD = /[\p{Alphabetic}\p{N}]+/gu;
const ASCII_WORD = /[0-9A-Za-z]+/y;
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
  /**
   * Goes on to where a listed word may begin, or to what is not of ASCII; most
   * messages have no such place. Undefined with a long list: texts are then
   * looked at word by word.
   */
  private readonly skip: RegExp | undefined;

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
    this.skip = skip([...this.listed.keys()]);
  }

  /**
   * `json` with its string values masked, or undefined if there was nothing to
   * mask. Keys, numbers and white space stay as they are, byte for byte: that
   * is why it does not go through JSON.parse as a whole, which would round
   * large numbers. Throws NotUnicode.
   */
  maskJson(json: string): string | undefined {
    // Nearly all messages are clean, and this tells most of them at once. With
    // an escape, which may stand for a letter, only decoding tells.
    if (this.next(json, 0) === undefined && !json.includes("\\")) return undefined;
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
    for (let found = this.next(text, 0); found; found = this.next(text, copied)) {
      masked += text.slice(copied, found.at) + "*".repeat([...text.slice(found.at, found.end)].length);
      copied = found.end;
    }
    return copied === 0 ? undefined : masked + text.slice(copied);
  }

  /** The first place, from `start` on, where a listed text stands. */
  private next(text: string, start: number): Place | undefined {
    let at = start;
    for (let word = this.suspect(text, at); word !== undefined; word = this.suspect(text, at)) {
      const end = this.endOfListed(text, word);
      if (end !== undefined) return { at: word.at, end };
      at = word.end;
    }
    return undefined;
  }

  /** The first word, from `start` on, that may begin a listed text. */
  private suspect(text: string, start: number): Place | undefined {
    const { skip } = this;
    let at = start;
    while (skip !== undefined) {
      skip.lastIndex = at;
      skip.test(text);
      const stop = skip.lastIndex;
      if (stop === text.length) return undefined;
      if (text.charCodeAt(stop) >= 0x80) {
        // Letters of ASCII before it are a part of the same word.
        for (at = stop; at > start && isAsciiLetter(text[at - 1]!); ) at -= 1;
        break;
      }
      const word = wordAt(text, stop);
      const isPart = stop > start && isAsciiLetter(text[stop - 1]!);
      if (!isPart) return word;
      at = word.end;
    }
    return wordFrom(WORD, text, at);
  }

  private endOfListed(text: string, word: Place): number | undefined {
    const listed = this.listed.get(fold(text.slice(word.at, word.end)))?.find((listed) => isAt(text, word.at, listed));
    return listed === undefined ? undefined : word.at + listed.length;
  }
}

interface Place {
  at: number;
  end: number;
}

function isAsciiLetter(letter: string): boolean {
  return /[0-9A-Za-z]/.test(letter);
}

function wordAt(text: string, at: number): Place {
  const word = wordFrom(ASCII_WORD, text, at)!;
  return text.charCodeAt(word.end) >= 0x80 ? wordFrom(WORD, text, at)! : word;
}

function wordFrom(pattern: RegExp, text: string, at: number): Place | undefined {
  pattern.lastIndex = at;
  const word = pattern.exec(text);
  return word === null ? undefined : { at: word.index, end: pattern.lastIndex };
}

/** Lists longer than this are looked up word by word, not matched. */
const MATCHED_MAX = 32;

/**
 * Matches up to where a listed word or what is not of ASCII begins, or to the end.
 * Written for speed: a run of characters that begin no word is skipped as one, and
 * case is spelled out, since the flag `i` costs three times as much.
 */
function skip(words: string[]): RegExp | undefined {
  if (words.length > MATCHED_MAX) return undefined;
  const either = (c: string) => `[${c.toLowerCase()}${c.toUpperCase()}]`;
  // The rest of a text, its other characters left out, is not needed to suspect it.
  const starts = words.map((text) => /^[a-z0-9]+/i.exec(text)?.[0] ?? "").filter((start) => start !== "");
  const firsts = [...new Set(starts.map((start) => start[0]!.toLowerCase() + start[0]!.toUpperCase()))].join("");
  const rests = [...new Set(starts.map((start) => [...start.slice(1)].map(either).join("")))].join("|");
  const others = `[^${firsts}\x80-\uffff]*`;
  return new RegExp(firsts === "" ? others : `${others}(?:[${firsts}](?!${rests})${others})*`, "y");
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
