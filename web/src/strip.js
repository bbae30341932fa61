// The strip at the top: what is live, what is being built, what went wrong.

import { animate, el, part } from "./dom.js";
import { changed } from "./words.js";

export class Strip {
  #node;
  #before;

  constructor(node) {
    this.#node = node;
  }

  /** Shows a status; true if it is another generation than the one before. */
  show(status) {
    const before = this.#before;
    this.#before = status;
    const isNext = before !== undefined && before.generation !== status.generation;
    const fresh = new Set(isNext ? changed(before, status) : []);
    part(this.#node, "generation").textContent = status.generation;
    part(this.#node, "plugins").replaceChildren(...status.plugins.map((plugin) => chip(plugin, fresh, status.building)));
    if (isNext) animate(part(this.#node, "pulse"), "pulsing");
    const { building } = status;
    const errors = errorsOf(status);
    if (building.length > 0) this.#say("building", `building ${building.join(", ")}…`);
    else if (errors.length > 0) this.#say("failed", "the last change failed; what is live goes on");
    else this.#say("live", isNext ? "live, just reloaded" : "live");
    this.#showErrors(errors);
    return isNext;
  }

  /** The gateway cannot be reached. */
  lost() {
    this.#say("lost", "the gateway does not answer; trying again…");
  }

  #say(state, text) {
    this.#node.dataset.state = state;
    part(this.#node, "state").textContent = text;
  }

  #showErrors(errors) {
    const list = part(this.#node, "errors");
    const shown = errors.map(({ title, text }) => `${title}\n${text}`).join("\n\n");
    // Only a change is worth losing the place to which somebody has scrolled.
    if (list.dataset.shown === shown) return;
    list.dataset.shown = shown;
    list.hidden = errors.length === 0;
    list.replaceChildren(
      ...errors.map(({ title, text }) =>
        el("section", { className: "error" }, el("h2", {}, title), el("pre", { tabIndex: 0 }, text)),
      ),
    );
  }
}

function errorsOf(status) {
  const builds = status.build_errors.map(({ plugin, text }) => ({ title: `${plugin} does not build, its last build stays`, text }));
  return status.error ? [...builds, { title: "Not taken over, the running generation stays", text: status.error }] : builds;
}

function chip({ name, generation, hash, hooks }, fresh, building) {
  const label = el("span", { className: "plugin-name" }, name, el("b", {}, `@${generation}`));
  const node = el("li", { className: "plugin" }, label);
  node.append(el("code", { title: "of its content" }, hash.slice(0, 7)), el("span", { className: "hooks" }, hooks.join(", ")));
  if (fresh.has(`${name}@${generation}`)) node.classList.add("fresh");
  if (building.includes(name)) node.classList.add("building");
  return node;
}
