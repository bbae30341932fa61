// The plugin's settings, checked: what is wrong with them is better told when
// the plugin is loaded than at the first message.

const ACTIONS = ["mask", "refuse", "drop"] as const;
export type Action = (typeof ACTIONS)[number];

export function parseSettings(json: string): { words: string[]; action: Action } {
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
