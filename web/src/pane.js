// One user: their connection, their rooms, and what they write.

import { Centrifuge } from "centrifuge";
import { animate, copy, el, name, part } from "./dom.js";
import { Room } from "./room.js";
import { payloadOf } from "./words.js";

export class Pane {
  /** The id of the connection, while there is one. */
  connection;
  #rooms = [];
  #shown;
  #reconnects = 0;

  constructor({ id, title, token, rooms, url }) {
    this.id = id;
    this.url = url;
    this.node = copy("pane");
    this.node.dataset.user = id;
    this.node.setAttribute("aria-label", title);
    this.#part("avatar").textContent = title.slice(0, 1);
    this.#part("title").textContent = title;
    const field = this.#part("token");
    field.value = token;
    for (const { channel, hint } of rooms) this.#add(channel, hint);

    this.#part("identity").addEventListener("submit", (event) => {
      event.preventDefault();
      this.connect(field.value.trim());
    });
    this.#part("tabs").addEventListener("keydown", (event) => this.#onTabKey(event));
    this.#part("other").addEventListener("submit", (event) => this.#onOther(event));
    this.#part("membership").addEventListener("click", () => this.#toggleMembership());
    this.#part("compose").addEventListener("submit", (event) => this.#onSend(event));
    this.connect(token);
    this.show(this.#rooms[0]);
  }

  #part(name) {
    return part(this.node, name);
  }

  /** Leaves the connection that there is, and makes one with another token. */
  connect(token) {
    this.centrifuge?.removeAllListeners();
    this.centrifuge?.disconnect();
    // Back soon when a gateway was restarted: somebody is looking.
    const centrifuge = new Centrifuge(this.url, { token, minReconnectDelay: 200, maxReconnectDelay: 2000 });
    this.centrifuge = centrifuge;
    this.#reconnects = 0;
    this.#showReconnects();
    centrifuge.on("connecting", ({ code, reason }) => {
      this.connection = undefined;
      // The first attempt has code 0; each other one is a connection lost.
      if (code !== 0) this.#reconnects += 1;
      this.#showReconnects();
      this.#say("connecting", code === 0 ? "connecting…" : `lost (${code} ${reason}), reconnecting…`);
    });
    centrifuge.on("connected", ({ client }) => {
      this.connection = client;
      // The client keeps the instance's id to itself. Of several behind a load
      // balancer each connection may have another.
      const instance = centrifuge._node ?? "";
      this.#say("connected", instance === "" ? "connected" : `connected to instance ${instance.slice(0, 8)}`, instance);
    });
    centrifuge.on("disconnected", ({ code, reason }) => {
      this.connection = undefined;
      this.#say("disconnected", code === 0 ? "disconnected" : `refused: ${code} ${reason}`);
    });
    centrifuge.on("error", ({ type, error }) => {
      // Codes below 100 are the client's own: timeouts, and sockets that break.
      if (error.code >= 100) this.#say("connecting", `refused: ${error.code} ${error.message}; trying again…`);
      else if (type === "transport") this.#say("connecting", "the gateway cannot be reached; trying again…");
    });
    // The user's own room, and whatever else the server has put them into.
    centrifuge.on("publication", (publication) => this.#personal(publication));
    centrifuge.on("message", (message) => this.#personal(message));
    for (const room of this.#rooms) room.forget();
    this.#shown?.join();
    centrifuge.connect();
  }

  #say(state, text, title = "") {
    this.node.dataset.state = state;
    const node = this.#part("state");
    node.textContent = text;
    node.title = title;
  }

  #showReconnects() {
    const node = this.#part("reconnects");
    node.textContent = `${this.#reconnects}`;
    node.parentElement.dataset.some = this.#reconnects > 0;
  }

  #personal(message) {
    this.#shown.personal(message);
    animate(this.#part("avatar"), "pulsing");
  }

  /** Marks in every room where another generation went live. */
  generation(number, plugins) {
    for (const room of this.#rooms) room.generation(number, plugins);
  }

  #add(channel, hint) {
    const room = new Room(channel, this, hint);
    room.tab.addEventListener("click", () => this.show(room));
    this.#rooms.push(room);
    this.#part("tabs").append(room.tab);
    this.#part("logs").append(room.log);
    room.show(false);
    return room;
  }

  show(room) {
    this.#shown?.show(false);
    this.#shown = room;
    room.show(true);
    // A room is joined when it is first looked at, and kept.
    if (room.state === "unknown") room.join();
    this.#part("line").placeholder = `Message to ${room.channel}${room.hint ? `: ${room.hint}` : ""}`;
    this.roomChanged(room);
  }

  /** A room tells that its state or who is in it has changed. */
  roomChanged(room) {
    if (room !== this.#shown) return;
    const membership = this.#part("membership");
    membership.textContent = room.state === "in" || room.state === "joining" ? "Leave" : "Join";
    const here = this.#part("here");
    const { people } = room;
    if (room.state === "refused") here.replaceChildren(el("li", { className: "aside" }, "not let in"));
    else if (room.state !== "in") here.replaceChildren(el("li", { className: "aside" }, room.state === "joining" ? "joining…" : "not in the room"));
    else if (!people) here.replaceChildren(el("li", { className: "aside" }, "this room does not tell who is here"));
    else here.replaceChildren(...people.map(person));
  }

  #toggleMembership() {
    const room = this.#shown;
    if (room.state === "in" || room.state === "joining") room.leave();
    else room.join();
  }

  #onTabKey(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const count = this.#rooms.length;
    const at = this.#rooms.indexOf(this.#shown);
    const next = step ? (at + step + count) % count : { Home: 0, End: count - 1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    this.show(this.#rooms[next]);
    this.#shown.tab.focus();
  }

  #onOther(event) {
    event.preventDefault();
    const field = this.#part("other-name");
    const channel = field.value.trim();
    if (channel === "") return;
    field.value = "";
    let room = this.#rooms.find((room) => room.channel === channel);
    room ??= this.#add(channel);
    this.show(room);
    room.tab.focus();
  }

  async #onSend(event) {
    event.preventDefault();
    const field = this.#part("line");
    const line = field.value.trim();
    if (line === "") return;
    const room = this.#shown;
    field.value = "";
    try {
      await this.centrifuge.publish(room.channel, payloadOf(line));
    } catch (error) {
      room.refused("not published", error);
      // What was written is not lost, unless something else is there by now.
      if (field.value === "") field.value = line;
    }
  }
}

function person({ name: called, user, connections }) {
  const node = el("li", { className: "person", title: user === "" ? "without a user" : `user ${user}` }, name(called));
  if (connections > 1) node.append(el("span", { className: "times" }, `×${connections}`));
  return node;
}
