// What things are called, for people. Nothing here knows of the page.

/** Whoever sent or is here: the name that their info gives, else their id. */
export function nameOf(info) {
  const name = info?.connInfo?.name;
  return (typeof name === "string" && name) || info?.user || "nobody in particular";
}

/** What to publish for a typed line: JSON if it is an object, else a text. */
export function payloadOf(line) {
  if (line.startsWith("{")) {
    try {
      return JSON.parse(line);
    } catch {
      // A line that only begins like one is a text like any other.
    }
  }
  return { text: line };
}

/** A payload as something to read: what kind it is, and its text. */
export function reading(data) {
  if (typeof data === "object" && data !== null) {
    if (data.kind === "mention") {
      const text = typeof data.data?.text === "string" ? data.data.text : json(data.data ?? null);
      return { kind: "mention", text, note: `mentioned you in ${data.room ?? "a room"}` };
    }
    if (data.kind === "announcement" && typeof data.text === "string") {
      return { kind: "announcement", text: data.text, note: "announces" };
    }
    if (typeof data.text === "string" && Object.keys(data).length === 1) return { kind: "text", text: data.text };
  }
  return { kind: "json", text: json(data) };
}

/** JSON in which marks that turn the writing around are seen instead of obeyed. */
function json(data) {
  const escaped = (mark) => `\\u${mark.charCodeAt(0).toString(16).padStart(4, "0")}`;
  return (JSON.stringify(data) ?? "").replace(/[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, escaped);
}

/** The stamp of a message: which generation, and which versions of plugins. */
export function stampOf(tags) {
  if (!tags?.generation) return undefined;
  return { generation: tags.generation, plugins: (tags.plugins ?? "").split(" ").filter((plugin) => plugin !== "") };
}

/** Members by user: two devices are one person. Nobody in particular comes last. */
export function people(members) {
  const byUser = new Map();
  for (const info of members) {
    const known = byUser.get(info.user);
    if (known) known.connections += 1;
    else byUser.set(info.user, { user: info.user, name: nameOf(info), connections: 1 });
  }
  const rank = ({ user }) => (user === "" ? 1 : 0);
  return [...byUser.values()].sort((a, b) => rank(a) - rank(b) || (a.name < b.name ? -1 : a.name > b.name ? 1 : 0));
}

/** The plugins that one status has and the one before it had not, as in a stamp. */
export function changed(before, now) {
  const label = ({ name, generation }) => `${name}@${generation}`;
  const known = new Set((before?.plugins ?? []).map(label));
  return now.plugins.map(label).filter((plugin) => !known.has(plugin));
}
