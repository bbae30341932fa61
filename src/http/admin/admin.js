// The admin page: a reader of the server API, with a few deeds. What others
// chose (names, messages, ids) becomes text nodes, in which marks that cannot
// be seen or turn the writing around are spelled out.

const PERIOD = 2000;
const SAMPLES = 90;
const LINES = 500;
const ROWS = 500;
const KEY = "wayleave-key";

const $ = (id) => document.getElementById(id);
const section = (view) => $(view);

let key = sessionStorage.getItem(KEY) ?? "";

// Nodes.

const HIDDEN = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;

/** A text in which everything can be seen. */
function visible(text) {
  return `${text}`.replace(HIDDEN, (mark) => `\\u${mark.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

function el(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

/** A name that somebody chose. */
const name = (text) => el("bdi", {}, visible(text));
const code = (value) => el("code", {}, name(typeof value === "string" ? value : JSON.stringify(value)));
const number = (value) => el("span", { className: "number" }, value.toLocaleString("en"));
const button = (text, onclick, className = "quiet") => el("button", { type: "button", className, onclick }, text);

/** Rows of cells under heads. */
function fill(table, heads, rows, caption = "") {
  const head = el("tr", {}, ...heads.map((text) => el("th", { scope: "col" }, text)));
  const body = rows.slice(0, ROWS).map((cells) => el("tr", {}, ...cells.map((cell) => el("td", {}, cell))));
  const left = rows.length > ROWS ? `${ROWS} of ${rows.length} are shown. ` : "";
  table.replaceChildren(
    el("caption", {}, rows.length === 0 ? "There are none." : left + caption),
    el("thead", {}, head),
    el("tbody", {}, ...body),
  );
}

// The server API.

class Refused extends Error {}

async function ask(path, options = {}) {
  const response = await fetch(path, {
    method: "POST",
    credentials: "omit",
    cache: "no-store",
    ...options,
    headers: { "X-API-Key": key, "Content-Type": "application/json" },
  });
  if (response.status === 401 || response.status === 429) {
    leave(response.status === 401 ? "This is none of the keys." : "Too many wrong keys came from here; wait a while.");
    throw new Refused("no key");
  }
  if (!response.ok) throw new Error(`the gateway answers ${response.status}`);
  return response;
}

async function call(method, parameters = {}) {
  const answer = await (await ask(`/api/${method}`, { body: JSON.stringify(parameters) })).json();
  if (answer.error) throw new Error(`${method}: ${answer.error.code} ${answer.error.message}`);
  return answer.result;
}

// Signing in and out.

function leave(why = "") {
  key = "";
  sessionStorage.removeItem(KEY);
  stopTail();
  for (const view of Object.keys(VIEWS)) section(view).hidden = true;
  $("nav").hidden = $("leave").hidden = $("trouble").hidden = true;
  $("login").hidden = false;
  $("state").textContent = "not signed in";
  $("refused").textContent = why;
  $("key").focus();
}

$("login").addEventListener("submit", (event) => {
  event.preventDefault();
  // A header holds no more than this; others would fail with words of the browser.
  key = $("key").value.trim();
  if (!/^[\x20-\x7e]+$/.test(key)) return leave("This is none of the keys.");
  $("key").value = "";
  sessionStorage.setItem(KEY, key);
  enter();
});
$("leave").addEventListener("click", () => leave());

function enter() {
  $("login").hidden = true;
  $("nav").hidden = $("leave").hidden = false;
  $("state").textContent = "";
  show();
}

// Views.

/** Each reads what it shows; asked again and again while it is shown. */
const VIEWS = { overview, connections, rooms, users, plugins, instances, tail: async () => {} };
let shown = "overview";
let timer;
let turn = 0;

function show() {
  if (key === "") return;
  const wanted = location.hash.slice(1);
  shown = Object.hasOwn(VIEWS, wanted) ? wanted : "overview";
  for (const view of Object.keys(VIEWS)) section(view).hidden = view !== shown;
  for (const link of $("nav").children) {
    if (link.hash === `#${shown}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  refresh();
}

async function refresh() {
  clearTimeout(timer);
  const mine = ++turn;
  try {
    await sample();
    await VIEWS[shown](() => mine === turn);
    if (mine === turn) trouble("");
  } catch (error) {
    if (error instanceof Refused) return;
    if (mine === turn) trouble(error.message);
  }
  // A page of a list that somebody reads is not taken away from them.
  if (mine === turn && key !== "") timer = setTimeout(refresh, PERIOD);
}

function trouble(text) {
  $("trouble").hidden = text === "";
  if ($("trouble").textContent !== visible(text)) $("trouble").textContent = visible(text);
}

window.addEventListener("hashchange", show);

// Overview: rates out of counters, by instance, since each counts for itself.

const before = new Map();
const series = [
  { title: "Messages a second", values: [] },
  { title: "Deliveries a second", values: [] },
  { title: "Connections", values: [] },
  { title: "Users on each instance, summed", values: [] },
  { title: "Rooms on each instance, summed", values: [] },
];
let known = [];

async function sample() {
  const { instances: all, differing, stale } = await call("instances");
  known = all;
  const now = performance.now();
  const sum = (field) => all.reduce((total, instance) => total + instance[field], 0);
  const rate = (field) =>
    all.reduce((total, instance) => {
      const last = before.get(instance.uid);
      return last ? total + Math.max(0, instance[field] - last[field]) / ((now - last.now) / 1000) : total;
    }, 0);
  if (before.size > 0) {
    const values = [rate("messages"), rate("deliveries"), sum("num_clients"), sum("num_users"), sum("num_channels")];
    for (const [n, value] of values.entries()) series[n].values = [...series[n].values, value].slice(-SAMPLES);
  }
  before.clear();
  for (const instance of all) before.set(instance.uid, { ...instance, now });
  known.differing = differing;
  const count = all.length === 1 ? "1 instance" : `${all.length} instances`;
  $("state").textContent = `${count}, ${sum("num_clients")} connections${stale ? "; not confirmed, the bus is away" : ""}`;
}

const SVG = "http://www.w3.org/2000/svg";

function plot({ title, values }) {
  const last = values.at(-1);
  const text = last === undefined ? "–" : Number(last.toFixed(last < 10 ? 1 : 0)).toLocaleString("en");
  const top = Math.max(1, ...values);
  const svg = document.createElementNS(SVG, "svg");
  const set = (node, attributes) => Object.entries(attributes).forEach(([key, value]) => node.setAttribute(key, value));
  set(svg, { viewBox: `0 0 ${SAMPLES - 1} 100`, preserveAspectRatio: "none", role: "img" });
  const spoken = `${title}: now ${text}, at most ${Math.round(top)} in the last ${(values.length * PERIOD) / 1000} seconds`;
  svg.setAttribute("aria-label", spoken);
  const line = document.createElementNS(SVG, "line");
  set(line, { x1: 0, x2: SAMPLES - 1, y1: 99, y2: 99 });
  const curve = document.createElementNS(SVG, "polyline");
  const from = SAMPLES - values.length;
  curve.setAttribute("points", values.map((value, n) => `${from + n},${(97 - (value / top) * 92).toFixed(2)}`).join(" "));
  svg.append(line, curve);
  return el("div", { className: "plot" }, el("h2", {}, title), el("p", {}, text), svg);
}

async function overview() {
  $("plots").replaceChildren(...series.map(plot));
}

// Lists.

const filters = { connections: {}, rooms: {}, users: {} };
let cursor;
let next;

for (const form of document.querySelectorAll("form.filter")) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const values = Object.fromEntries([...new FormData(form)].filter(([, value]) => value !== ""));
    if (form.dataset.filter === "tail") return follow(values);
    filters[form.dataset.filter] = values;
    cursor = undefined;
    refresh();
  });
}

section("connections").querySelector("[data-next]").addEventListener("click", () => {
  cursor = next;
  refresh();
});

async function connections(isCurrent) {
  const page = await call("connections", { ...filters.connections, limit: 100, ...(cursor && { cursor }) });
  if (!isCurrent()) return;
  next = page.next;
  section("connections").querySelector("[data-next]").disabled = !next && !cursor;
  section("connections").querySelector("[data-next]").textContent = next ? "Next page" : "First page";
  const rows = page.connections.map((connection) => [
    code(connection.client),
    name(connection.user),
    named(connection.instance),
    connection.info === undefined ? "" : code(connection.info),
    el("span", {}, ...(connection.channels ?? []).flatMap((room) => [name(room), " "])),
    button("Disconnect", () => disconnect(connection), "danger"),
  ]);
  const missing = (page.missing ?? []).map((instance) => instance.name).join(", ");
  const caption = missing === "" ? "" : visible(`These did not report: ${missing}`);
  keepFocus(section("connections"), () =>
    fill(section("connections").querySelector("table"), ["Connection", "User", "Instance", "Info", "Rooms", ""], rows, caption),
  );
}

/** The list is made anew under the reader's hands; the focus stays in its place. */
function keepFocus(place, change) {
  const all = () => [...place.querySelectorAll("td button")];
  const at = all().indexOf(document.activeElement);
  change();
  if (at >= 0) all()[at]?.focus();
}

const named = (uid) => name(known.find((instance) => instance.uid === uid)?.name ?? uid);

async function rooms(isCurrent) {
  const { channels } = await call("channels", filters.rooms);
  if (!isCurrent()) return;
  const all = Object.entries(channels).sort(([a, { num_clients: n }], [b, { num_clients: m }]) => m - n || (a < b ? -1 : 1));
  const rows = all.map(([room, { num_clients }]) => [name(room), number(num_clients), button("Members", () => members(room))]);
  keepFocus(section("rooms"), () => fill(section("rooms").querySelector("table"), ["Room", "Connections", ""], rows));
}

async function members(room) {
  const table = el("table");
  let caption = "";
  try {
    const page = await call("members", { channel: room, limit: 1000 });
    const rows = page.members.map((member) => [
      name(member.user),
      code(member.client),
      member.conn_info === undefined ? "" : code(member.conn_info),
      member.chan_info === undefined ? "" : code(member.chan_info),
    ]);
    fill(table, ["User", "Connection", "Info", "Info in the room"], rows, page.next ? "There are more." : "");
  } catch (error) {
    caption = error.message;
  }
  $("members").replaceChildren(el("h3", {}, "Members of ", name(room)), caption ? el("p", { className: "bad" }, visible(caption)) : el("div", { className: "scroll" }, table));
}

async function users(isCurrent) {
  const { user } = filters.users;
  const page = await call("connections", { limit: 1000, ...(user && { user }) });
  const found = user ? (await call("users", { users: [user] })).users[user] : undefined;
  if (!isCurrent()) return;
  $("user-found").replaceChildren(...(found ? [name(user), found.online ? ` is online, ${found.num_clients} connections` : " is not online"] : []));
  const byUser = new Map();
  for (const connection of page.connections) {
    const of = byUser.get(connection.user) ?? { connections: 0, instances: new Set() };
    of.connections += 1;
    of.instances.add(connection.instance);
    byUser.set(connection.user, of);
  }
  const rows = [...byUser].map(([id, { connections: n, instances: on }]) => [
    id === "" ? el("i", {}, "nobody in particular") : name(id),
    number(n),
    el("span", {}, ...[...on].flatMap((uid) => [named(uid), " "])),
    id === "" ? "" : button("Disconnect", () => disconnect({ user: id }), "danger"),
  ]);
  const caption = page.next ? "Of the first 1,000 connections; look others up." : "";
  keepFocus(section("users"), () => fill(section("users").querySelector("table"), ["User", "Connections", "Instances", ""], rows, caption));
}

async function plugins(isCurrent) {
  const live = await call("plugins");
  if (!isCurrent()) return;
  const micros = (value, bound) => (value === null || value === undefined ? "" : `${bound}${value.toLocaleString("en")} µs`);
  const rows = live.plugins.flatMap((plugin) =>
    plugin.hooks.map((hook, n) => {
      const calls = plugin.calls[hook.replace("-", "_")] ?? { count: 0, failures: {} };
      const failures = Object.entries(calls.failures).map(([kind, count]) => `${kind} ${count}`);
      return [
        n === 0 ? name(plugin.name) : "",
        n === 0 ? number(plugin.generation) : "",
        n === 0 ? code(plugin.hash) : "",
        hook,
        number(calls.count),
        micros(calls.mean_us, ""),
        micros(calls.p99_us, "≤ "),
        el("span", { className: failures.length > 0 ? "bad" : "" }, failures.join(", ") || "0"),
      ];
    }),
  );
  const heads = ["Plugin", "Generation", "File", "Hook", "Calls", "Mean", "99 of 100", "Failures"];
  fill(section("plugins").querySelector("table"), heads, rows, "Of the instance that answers, since it began.");
  const back = live.is_rolled_back ? ", rolled back: older than what stands on disk" : "";
  $("generation").textContent = `generation ${live.generation}${back}`;
  section("plugins").querySelector('[data-deed="rollback"]').disabled = !live.can_roll_back;
  $("reload-error").hidden = live.error === null;
  $("reload-error").textContent = live.error === null ? "" : live.error.split("\n").map(visible).join("\n");
}

async function instances() {
  const rows = known.map((instance) => [
    name(instance.name),
    code(instance.uid),
    name(instance.version),
    number(instance.num_clients),
    number(instance.num_users),
    number(instance.num_channels),
    number(instance.generation),
    `${number(instance.uptime).textContent} s`,
    `${(instance.silent_ms / 1000).toFixed(1)} s`,
    instance.is_self ? "answers" : "",
  ]);
  const heads = ["Name", "Instance", "Version", "Connections", "Users", "Rooms", "Generation", "Uptime", "Silent for", ""];
  fill(section("instances").querySelector("table"), heads, rows);
  const differing = Object.keys(known.differing);
  $("differing").hidden = differing.length === 0;
  $("differing").textContent = visible(`These plugins are not the same everywhere: ${differing.join(", ")}`);
}

// Deeds, each after a question.

function sure(what, yes) {
  $("sure-what").replaceChildren(...what);
  $("sure-yes").textContent = yes;
  $("sure").returnValue = "no";
  $("sure").showModal();
  return new Promise((resolve) => {
    $("sure").addEventListener("close", () => resolve($("sure").returnValue === "yes"), { once: true });
  });
}

async function deed(work) {
  try {
    $("state").textContent = visible(await work());
  } catch (error) {
    if (!(error instanceof Refused)) trouble(error.message);
    return;
  }
  refresh();
}

async function disconnect({ client, user }) {
  const whom = client ? ["Disconnect the connection ", code(client), " of ", name(user), "?"] : ["Disconnect all connections of ", name(user), "?"];
  if (!(await sure(whom, "Disconnect"))) return;
  await deed(async () => {
    const { connections: n } = await call("disconnect", client ? { client } : { user });
    return `${n} disconnected`;
  });
}

for (const work of document.querySelectorAll("[data-deed]")) {
  work.addEventListener("click", async () => {
    const method = work.dataset.deed;
    const what = method === "reload" ? "Read config and plugins again on all instances?" : "Put the generation before the last reload in force again, on all instances?";
    if (!(await sure([what], method === "reload" ? "Reload" : "Roll back"))) return;
    await deed(async () => {
      const { answers, missing } = await call(method, { all: true });
      const failed = answers.filter((answer) => answer.error !== undefined);
      if (failed.length + missing.length === 0) return "done on all instances";
      const why = [...failed.map((answer) => `${answer.name}: ${answer.error}`), ...missing.map((instance) => `${instance.name} did not report`)];
      throw new Error(why.join("\n"));
    });
  });
}

// What passes.

let tailing;

function stopTail() {
  tailing?.abort();
  tailing = undefined;
  section("tail").querySelector("[data-stop]").disabled = true;
}

section("tail").querySelector("[data-stop]").addEventListener("click", stopTail);

async function follow({ of = "", name: whose = "" }) {
  stopTail();
  const mine = new AbortController();
  tailing = mine;
  section("tail").querySelector("[data-stop]").disabled = false;
  $("lines").replaceChildren();
  const query = of === "" ? "" : `?${of}=${encodeURIComponent(whose)}`;
  try {
    const response = await ask(`/api/tail${query}`, { signal: mine.signal });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      const lines = (text + value).split("\n");
      text = lines.pop();
      for (const line of lines) tell(JSON.parse(line));
    }
    // An error is an answer without a line's end.
    if (text !== "") throw new Error(JSON.parse(text).error.message);
    told("lost", "the gateway ended it");
  } catch (error) {
    if (mine.signal.aborted || error instanceof Refused) return;
    told("lost", error.message);
  }
  if (tailing === mine) stopTail();
}

function told(kind, ...what) {
  const list = $("lines");
  const isAtEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
  const texts = what.map((part) => (typeof part === "string" ? visible(part) : part));
  list.append(el("li", {}, el("time", {}, new Date().toLocaleTimeString("en", { hour12: false })), el("span", { className: `kind ${kind}` }, visible(kind)), ...texts));
  while (list.childElementCount > LINES) list.firstElementChild.remove();
  if (isAtEnd) list.scrollTop = list.scrollHeight;
}

function tell(line) {
  const who = (user, client) => (user ? name(user) : client ? code(client) : "the server ");
  switch (line.type) {
    case "alive":
      return;
    case "tailing":
      return told("following", line.about);
    case "dropped":
      return told("lost", `${line.count} lines: too many to show`);
    case "message": {
      const where = line.channel === undefined ? line.to.map((target) => name(target)) : [name(line.channel)];
      const data = line.data === undefined ? `${line.size} bytes` : code(line.data);
      return told("message", ...where, who(line.from?.user, line.from?.client), data);
    }
    default:
      return told(line.type, who(line.user, line.client), ...(line.channel ? [name(line.channel)] : []));
  }
}

if (key === "") leave();
else enter();
