// A room as one user sees it: its tab, who is here, and what was said.

import { el, name } from "./dom.js";
import { nameOf, people, reading, stampOf } from "./words.js";

/** Older entries go, so that a page left open does not grow for ever. */
const ENTRIES_MAX = 400;

/** How close to the end counts as being there, in pixels. */
const NEAR = 40;

export class Room {
  /** `unknown`, `joining`, `in`, `refused`, `out`. */
  state = "unknown";
  /** Infos by connection; undefined if the room does not tell. */
  #members;
  #plugins = "";
  #unread = 0;

  /** `hint` says what is worth trying in there. */
  constructor(channel, pane, hint) {
    this.channel = channel;
    this.pane = pane;
    this.hint = hint;
    const id = `${pane.id}-${channel}`.replace(/[^\w-]/g, "_");
    this.counter = el("span", { className: "unread", hidden: true });
    this.tab = el("button", { type: "button", id: `tab-${id}`, className: "tab", title: channel }, el("span", {}, channel), this.counter);
    this.tab.setAttribute("role", "tab");
    this.tab.setAttribute("aria-controls", `log-${id}`);
    this.log = el("ol", { id: `log-${id}`, className: "log", tabIndex: 0, hidden: true });
    this.log.setAttribute("role", "log");
    this.log.setAttribute("aria-label", `messages in ${channel}`);
  }

  get isShown() {
    return !this.log.hidden;
  }

  show(isShown) {
    this.log.hidden = !isShown;
    this.tab.setAttribute("aria-selected", isShown);
    this.tab.tabIndex = isShown ? 0 : -1;
    if (isShown) {
      this.#unread = 0;
      this.counter.hidden = true;
      this.log.scrollTop = this.log.scrollHeight;
      // Where comings and goings are not told, this is the moment to look.
      if (this.state === "in") this.refresh();
    }
  }

  /** Asks to be let in, and keeps the answer up to date. */
  join() {
    this.subscription ??= this.#subscribe();
    this.subscription.subscribe();
  }

  leave() {
    this.subscription?.unsubscribe();
  }

  #subscribe() {
    const subscription = this.pane.centrifuge.newSubscription(this.channel);
    subscription.on("subscribing", () => this.#become("joining"));
    subscription.on("subscribed", () => {
      this.#become("in");
      this.refresh();
    });
    subscription.on("unsubscribed", ({ code, reason }) => {
      this.#members = undefined;
      // By one's own wish it is 0; what the server does later is 2000 and more.
      if (code === 0) this.#become("out");
      else {
        this.#become("refused");
        this.refused(code >= 2000 ? "taken out of the room" : "not let in", { code, message: reason });
      }
    });
    subscription.on("error", ({ error }) => this.refused("could not join, trying again", error));
    subscription.on("publication", (publication) => this.message(publication));
    subscription.on("join", ({ info }) => this.#came(info));
    subscription.on("leave", ({ info }) => this.#went(info));
    return subscription;
  }

  /** The connection is another one: the old subscription belongs to it. */
  forget() {
    this.subscription = undefined;
    this.#members = undefined;
    this.#become("unknown");
  }

  #become(state) {
    this.state = state;
    this.tab.dataset.state = state;
    this.pane.roomChanged(this);
  }

  /** Looks who is here. */
  async refresh() {
    try {
      const { clients } = await this.subscription.presence();
      this.#members = new Map(Object.entries(clients));
    } catch {
      // A room may keep it to itself.
      this.#members = undefined;
    }
    this.pane.roomChanged(this);
  }

  /** Who is here, by person; undefined if the room does not tell. */
  get people() {
    return this.#members && people(this.#members.values());
  }

  #came(info) {
    this.#members?.set(info.client, info);
    this.pane.roomChanged(this);
    if (info.client !== this.pane.connection) this.#note("moved", name(nameOf(info)), " came");
  }

  #went(info) {
    this.#members?.delete(info.client);
    this.pane.roomChanged(this);
    if (info.client !== this.pane.connection) this.#note("moved", name(nameOf(info)), " went");
  }

  /** Shows a message of this room. */
  message({ data, info, tags }) {
    const { kind, text, note } = reading(data);
    const isOwn = info !== undefined && info.client === this.pane.connection;
    const entry = el("li", { className: `entry message ${kind}`, data: { own: isOwn } });
    const head = headOf(info, note);
    head.append(now());
    entry.append(head, body(kind, text));
    this.#stamp(entry, stampOf(tags));
    this.#put(entry);
    this.#count();
  }

  /** Shows what was meant for this user alone, wherever it came from. */
  personal({ channel, data, info, tags }) {
    const { kind, text, note } = reading(data);
    const entry = el("li", { className: `entry message personal ${kind}` });
    const head = headOf(info, note);
    head.append(el("span", { className: "mark", title: channel ?? "a message to this connection" }, "only to you"), now());
    entry.append(head, body(kind, text));
    this.#stamp(entry, stampOf(tags));
    this.#put(entry);
  }

  /** Shows why something was not done. */
  refused(what, { code, message }) {
    const entry = el("li", { className: "entry refusal" });
    entry.append(el("span", { className: "code", title: "error code" }, `${code}`), el("span", {}, `${what}: `, el("bdi", {}, message)));
    this.#put(entry);
  }

  /** Marks where another generation went live. */
  generation(number, plugins) {
    if (this.log.childElementCount === 0) return;
    const text = [`generation ${number}`, ...plugins].join(" · ");
    this.#put(el("li", { className: "entry divider" }, el("span", {}, text)));
  }

  #note(className, ...children) {
    this.#put(el("li", { className: `entry ${className}` }, el("span", {}, ...children)));
  }

  #stamp(entry, stamp) {
    if (!stamp) return;
    const badge = el("p", { className: "stamp", title: "the generation and the plugins that answered" });
    badge.append(el("span", { className: "generation" }, `gen ${stamp.generation}`));
    for (const plugin of stamp.plugins) badge.append(el("span", { className: "by" }, plugin));
    // The first answer of other plugins is the one to look at.
    const plugins = stamp.plugins.join(" ");
    if (this.#plugins !== "" && plugins !== this.#plugins) badge.classList.add("fresh");
    this.#plugins = plugins;
    entry.append(badge);
  }

  #put(entry) {
    const { log } = this;
    const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < NEAR;
    log.append(entry);
    while (log.childElementCount > ENTRIES_MAX) log.firstElementChild.remove();
    if (isAtEnd) log.scrollTop = log.scrollHeight;
  }

  #count() {
    if (this.isShown) return;
    this.#unread += 1;
    this.counter.textContent = this.#unread > 99 ? "99+" : `${this.#unread}`;
    this.counter.hidden = false;
  }
}

function headOf(info, note) {
  const head = el("p", { className: "head" }, name(info ? nameOf(info) : "the gateway"));
  if (note) head.append(el("bdi", { className: "note" }, note));
  return head;
}

function body(kind, text) {
  const node = el(kind === "json" ? "code" : "span", {}, text);
  node.dir = "auto";
  return el("p", { className: "body" }, node);
}

function now() {
  const date = new Date();
  const text = date.toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
  return el("time", { dateTime: date.toISOString() }, text);
}
