// Finds what concerns others in what people write.

const ANNOUNCE = "/announce ";

/** What names are made of. The first takes a tenth of the time, and most names are such. */
const ASCII_NAME = /[\w.-]*/y;
const NAME = /[\p{Alphabetic}\p{N}_.-]*/uy;
const NAME_ENDS = /[\p{Alphabetic}\p{N}_.-]$/u;

/**
 * False only if `json` holds neither a mention nor an announcement. A slash may
 * be written `\/`, and any letter as `\u`, hence not the whole command.
 */
export function mayConcern(json: string): boolean {
  return json.includes("@") || json.includes("announce") || json.includes("\\u");
}

/** The string that `json`, an object, has in `name`. */
export function field(json: string, name: string): string | undefined {
  const value = JSON.parse(json);
  if (typeof value !== "object" || value === null || Array.isArray(value) || !Object.hasOwn(value, name)) return undefined;
  const text = value[name];
  // Half a surrogate pair: valid as JSON, but no text that could go on.
  return typeof text === "string" && text.isWellFormed() ? text : undefined;
}

/** What is to be announced, if that is what `text` wants. */
export function announcement(text: string): string | undefined {
  if (!text.startsWith(ANNOUNCE)) return undefined;
  return text.slice(ANNOUNCE.length).trim() || undefined;
}

/**
 * The names that `text` mentions, each once, in order, at most `max`, without
 * the sender's own.
 */
export function mentions(text: string, sender: string, max: number): string[] {
  const names = new Set<string>();
  for (let at = text.indexOf("@"); at >= 0 && names.size < max; at = text.indexOf("@", at + 1)) {
    // Behind a letter it is part of an address.
    if (NAME_ENDS.test(text.slice(Math.max(at - 2, 0), at))) continue;
    const name = nameAt(text, at + 1);
    if (name !== "" && name !== sender) names.add(name);
  }
  return [...names];
}

function nameAt(text: string, start: number): string {
  let end = endOf(ASCII_NAME, text, start);
  if (text.charCodeAt(end) >= 0x80) end = endOf(NAME, text, start);
  // The dot of `ask @ada.` ends the sentence; that of `@ada.l` does not.
  while (end > start && ".-".includes(text[end - 1]!)) end -= 1;
  return text.slice(start, end);
}

/** Where what a sticky pattern matches at `start` ends. */
function endOf(pattern: RegExp, text: string, start: number): number {
  pattern.lastIndex = start;
  pattern.test(text);
  return pattern.lastIndex;
}
