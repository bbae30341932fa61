// The plugin's settings, checked: what is wrong with them is better told when
// the plugin is loaded than at the first message.

export interface Settings {
  /** Where in the payload people write. */
  field: string;
  maxMentions: number;
  announcers: string[];
  announceRooms: string[];
}

export function parseSettings(json: string): Settings {
  const {
    field = "text",
    max_mentions: maxMentions = 10,
    announcers = [],
    announce_rooms: announceRooms = [],
    ...unknown
  } = JSON.parse(json);
  for (const key of Object.keys(unknown)) {
    throw new Error(`settings: unknown key \`${key}\``);
  }
  if (typeof field !== "string") throw new Error("settings: `field` must be a text");
  if (!Number.isSafeInteger(maxMentions) || maxMentions < 0) {
    throw new Error("settings: `max_mentions` must be a whole number, not negative");
  }
  for (const [key, list] of Object.entries({ announcers, announce_rooms: announceRooms })) {
    if (!Array.isArray(list) || !list.every((entry) => typeof entry === "string")) {
      throw new Error(`settings: \`${key}\` must be a list of texts`);
    }
  }
  if (announcers.includes("")) {
    throw new Error("settings: an empty name in `announcers` would let anonymous users announce");
  }
  if (announceRooms.length === 0 && announcers.length > 0) {
    throw new Error("settings: `announcers` need `announce_rooms`");
  }
  return { field, maxMentions, announcers, announceRooms };
}
