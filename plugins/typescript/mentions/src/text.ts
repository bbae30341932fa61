// Finds what concerns others in what people write.

const ANNOUNCE = "/announce ";

/** A run of what names are made of; behind a letter, `@` is part of an address. */
const MENTION = /(?<![\p{Alphabetic}\p{N}_.-])@([\p{Alphabetic}\p{N}_.-]+)/gu;

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
  for (const [, written] of text.matchAll(MENTION)) {
    if (names.size >= max) break;
    // The dot of `ask @ada.` ends the sentence; that of `@ada.l` does not.
    const name = written!.replace(/[.-]+$/, "");
    if (name !== "" && name !== sender) names.add(name);
  }
  return [...names];
}
