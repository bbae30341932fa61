// Two users side by side, and above them what is live.

import { follow } from "./live.js";
import { Pane } from "./pane.js";
import { Strip } from "./strip.js";
import { changed } from "./words.js";

// Rooms of the config.toml that comes along, with what is worth trying there.
const ROOMS = [
  { channel: "chat:lobby", hint: "try heck, @bob, /announce hi" },
  { channel: "team:staff" },
  { channel: "news:a" },
  { channel: "news:b" },
  { channel: "orders:1", hint: 'try {"customer":"bob"}' },
];
// Tokens of plugins/typescript/demo-users, which is for trying only.
const USERS = [
  { id: "ada", title: "Ada", token: "demo-ada" },
  { id: "bob", title: "Bob", token: "demo-bob" },
];

const url = `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/connection/websocket`;
const panes = USERS.map((user) => new Pane({ ...user, rooms: ROOMS, url }));
document.getElementById("panes").append(...panes.map(({ node }) => node));

const strip = new Strip(document.getElementById("strip"));
let before;
follow("/try/events", {
  onStatus(status) {
    if (strip.show(status)) for (const pane of panes) pane.generation(status.generation, changed(before, status));
    before = status;
  },
  onLost: () => strip.lost(),
});
