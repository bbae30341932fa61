// The page to try the gateway, as a person sees it.

import assert from "node:assert/strict";
import { mkdir, readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { Gateway, ROOT, fixtureText } from "../../clients/js/support/gateway.js";
import { SECRET, token } from "../../clients/js/support/token.js";
import { browser, open } from "../support/browser.js";

const SCREENSHOT = process.env.SCREENSHOT || fileURLToPath(new URL("../out/page.png", import.meta.url));
// The engine of the scripts among the plugins takes seconds to compile, and is the same in each test.
const CACHE = fileURLToPath(new URL("../out/cache", import.meta.url));

/** An example plugin, built. */
const built = (name) => join(ROOT, "plugins", name, name.startsWith("typescript/") ? "plugin.js" : "plugin.wasm");

/** As config.toml has it, with the moderation plugin in a place where tests may swap it. */
const CONFIG = {
  server: { personal_rooms: true, cache: CACHE },
  auth: { anonymous: true, plugins: ["demo-users"], jwt: { hmac_secret: SECRET } },
  rooms: [
    { match: "chat:*", publish: "members", presence: true, join_leave: true, stamp: true, plugins: ["moderation", "mentions"] },
    { match: "team:*", publish: "members", presence: true, join_leave: true, stamp: true, plugins: ["members-only"] },
    { match: "news:*", presence: true },
    { match: "orders:*", publish: "members", stamp: true },
    { match: "open:*", publish: "members", presence: true, join_leave: true },
  ],
  plugins: [
    { name: "moderation", path: "moderation.wat" },
    {
      name: "mentions",
      path: built("rust/mentions"),
      settings: { announcers: ["ada"], announce_rooms: ["news:a", "news:b", "chat:lobby"] },
    },
    { name: "members-only", path: built("typescript/members-only"), settings: { rooms: { "team:staff": ["ada"] } } },
    { name: "demo-users", path: built("typescript/demo-users") },
  ],
};

/** The gateway, and the page with both users connected and in the lobby. */
async function start(t, options) {
  const gateway = await Gateway.start(t, CONFIG, { "moderation.wat": await fixtureText("pass") });
  const opened = await open(await browser(t, options), gateway);
  const { ada, bob } = opened.panes;
  for (const pane of [ada, bob]) {
    await pane.connected();
    await pane.here("Ada", "Bob");
  }
  return { gateway, ada, bob, ...opened };
}

/** What must hold at the end of each of these stories. */
async function nothingWrong({ wrong, ada, bob }) {
  assert.deepEqual(wrong, []);
  assert.deepEqual([await ada.reconnects(), await bob.reconnects()], [0, 0]);
}

const stamp = (entry) => entry.locator(".stamp span").allTextContents();

test("two users meet, and a reload changes the next message without a reconnect", async (t) => {
  const all = await start(t);
  const { gateway, page, ada, bob } = all;
  assert.equal(await page.locator('#strip [data-part="generation"]').textContent(), "1");
  assert.deepEqual(await page.locator(".plugin-name").allTextContents(),
    ["moderation@1", "mentions@1", "members-only@1", "demo-users@1"]);
  assert.match(await ada.instance(), /^[0-9a-f]{8}$/);
  assert.equal(await bob.instance(), await ada.instance());

  await ada.say("Good morning, Bob");
  await bob.entry("Good morning, Bob").waitFor();
  assert.deepEqual(await stamp(bob.entry("Good morning, Bob")), ["gen 1", "moderation@1", "mentions@1"]);
  assert.equal(await bob.entry("Good morning, Bob").locator(".head .name").textContent(), "Ada");
  await bob.say("Good morning! How is @ada today?");
  await ada.entry("mentioned you in chat:lobby").waitFor();

  // Another plugin in the same place: it answers `{"stamp":"b"}` to everything.
  await gateway.write("moderation.wat", await fixtureText("stamp-b"));
  await page.locator(".plugin-name", { hasText: "moderation@2" }).waitFor();
  await ada.entry("generation 2 · moderation@2").waitFor();
  await ada.say("What will become of this?");
  await bob.entry('{"stamp":"b"}').waitFor();
  assert.deepEqual(await stamp(bob.entry('{"stamp":"b"}')), ["gen 2", "moderation@2", "mentions@1"]);
  await gateway.write("moderation.wat", await fixtureText("pass"));
  await bob.entry("generation 3 · moderation@3").waitFor();
  await bob.say("Back to normal, and nobody reconnected.");
  await ada.entry("Back to normal").waitFor();

  await mkdir(dirname(SCREENSHOT), { recursive: true });
  await page.screenshot({ path: SCREENSHOT });
  await nothingWrong(all);
});

test("a routing rule takes effect on open connections", async (t) => {
  const all = await start(t);
  const { gateway, page, ada, bob } = all;
  await ada.show("orders:1");
  await ada.say('{"customer":"bob","item":"coffee"}');
  await ada.entry("coffee").waitFor();
  await gateway.configure({ ...CONFIG, routes: [{ room: "orders:*", to: ["user:{data.customer}"] }] });
  await page.locator('#strip [data-part="generation"]').getByText("2", { exact: true }).waitFor();
  await ada.say('{"customer":"bob","item":"tea"}');
  const told = bob.entry("tea");
  await told.getByText("only to you").waitFor();
  assert.deepEqual(await stamp(told), ["gen 2"]);
  assert.equal(await bob.entry("coffee").count(), 0);
  await nothingWrong(all);
});

test("refusals are shown with code and reason, and what was written is kept", async (t) => {
  const all = await start(t);
  const { ada, bob } = all;
  await bob.show("team:staff");
  assert.equal(await bob.entry("not let in").textContent(), "103not let in: members only");
  await bob.say("May I?");
  await bob.entry("not published").waitFor();
  assert.equal(await bob.node.getByLabel("message", { exact: true }).inputValue(), "May I?");
  await ada.show("team:staff");
  await ada.here("Ada");
  await ada.enter("nowhere:1");
  await ada.entry("102").waitFor();
  await bob.show("chat:lobby");
  await bob.say("/announce hello");
  await bob.entry("403").waitFor();
  await nothingWrong(all);
});

test("announcements arrive, unread messages are counted, comings and goings are told", async (t) => {
  const all = await start(t);
  const { ada, bob } = all;
  await bob.show("news:b");
  await bob.here("Bob");
  await ada.enter("chat:other");
  await ada.say("/announce Version 2 is out");
  await bob.entry("Version 2 is out").getByText("announces").waitFor();
  await ada.say("and now to work");
  await ada.show("news:a");
  await ada.node.getByRole("button", { name: "Leave" }).click();
  await ada.node.getByText("not in the room").waitFor();
  await ada.node.getByRole("button", { name: "Join" }).click();
  await ada.here("Ada");
  await bob.say("nobody may speak here");
  await bob.entry("103").waitFor();
  // Bob is elsewhere while Ada speaks in the lobby.
  await ada.show("chat:lobby");
  await ada.say("one");
  await ada.say("two");
  await bob.node.locator(".tab", { hasText: "chat:lobby" }).locator(".unread").getByText("2", { exact: true }).waitFor();
  await ada.node.getByRole("button", { name: "Leave" }).click();
  await bob.show("chat:lobby");
  await bob.entry("Ada went").waitFor();
  await nothingWrong(all);
});

test("a failed reload is shown in full, and what is live goes on", async (t) => {
  const all = await start(t);
  const { gateway, page, ada, bob } = all;
  await gateway.write("moderation.wat", "(component\n  oops");
  const error = page.locator(".error");
  await error.waitFor();
  assert.match(await error.textContent(), /moderation[^]*oops/);
  await ada.say("Still here?");
  await bob.entry("Still here?").waitFor();
  assert.equal((await stamp(bob.entry("Still here?")))[0], "gen 1");
  await gateway.configure({ ...CONFIG, routes: [{ room: "x", to: [], unknown_key: "<b>bold</b>" }] });
  await error.getByText("unknown_key").waitFor();
  await gateway.configure(CONFIG);
  await gateway.write("moderation.wat", `${await fixtureText("pass")}\n;; mended\n`);
  await error.waitFor({ state: "detached" });
  await page.locator(".plugin-name", { hasText: "moderation@2" }).waitFor();
  await nothingWrong(all);
});

test("wayleave dev shows builds and what a compiler said", async (t) => {
  const script = (build) => JSON.stringify({ name: "p", private: true, scripts: { build } });
  // The build waits for the test, so that its being shown does not depend on luck.
  const slow = (then) => `until [ -e ../gate ]; do sleep 0.05; done; ${then}`;
  const config = {
    auth: { anonymous: true },
    rooms: [{ match: "*", publish: "members", presence: true, stamp: true, plugins: ["p"] }],
    plugins: [{ name: "p", path: "p" }],
  };
  const component = await readFile(built("rust/moderation"));
  // A custom section behind it makes it another file and the same plugin.
  const other = Buffer.concat([component, Buffer.from([0, 3, 1, 0x78, 1])]);
  const gateway = await Gateway.start(
    t,
    { ...config, plugins: [{ ...config.plugins[0], grants: ["log"], settings: { words: ["darn"] } }] },
    {
      "first.bin": component,
      "second.bin": other,
      gate: "",
      "p/package.json": script(slow("cp ../first.bin plugin.wasm")),
      "p/package-lock.json": "{}",
      "p/node_modules/nothing": "",
    },
    { command: "dev" },
  );
  const { page, wrong, panes } = await open(await browser(t), gateway);
  // Without demo-users the page's tokens are nobody's; that is shown, too.
  await panes.ada.node.getByText("3500 invalid token").waitFor();
  await panes.bob.connect("");
  const bob = panes.bob;
  await bob.here("nobody in particular");
  const state = page.locator('#strip > .top [data-part="state"]');

  await gateway.remove("gate");
  await gateway.write("p/package.json", script(slow("echo 'src/x.ts:1: <img src=x> is wrong' >&2; exit 1")));
  await state.getByText("building p…").waitFor();
  await gateway.write("gate", "");
  const error = page.locator(".error");
  await error.getByText("src/x.ts:1: <img src=x> is wrong").waitFor();
  await bob.say("darn");
  await bob.entry("****").waitFor();

  await gateway.write("p/package.json", script(slow("cp ../second.bin plugin.wasm")));
  await error.waitFor({ state: "detached" });
  await page.locator(".plugin-name", { hasText: "p@2" }).waitFor();
  await bob.say("well, darn");
  await bob.entry("well, ****").waitFor();
  assert.equal((await stamp(bob.entry("well, ****")))[1], "p@2");
  assert.equal(await bob.reconnects(), 0);
  assert.deepEqual(wrong, []);
});

test("names and messages of others execute nothing", async (t) => {
  const all = await start(t);
  const { page, ada, bob } = all;
  const hostile = [
    '<img src=x onerror="alert(1)">',
    "<script>alert(2)</script>",
    '"><svg onload=alert(3)>',
    "javascript:alert(4)",
    "</bdi></p><iframe srcdoc='<script>parent.alert(5)</script>'>",
    "<style>body{display:none}</style><link rel=stylesheet href=https://elsewhere.example/x.css>",
    "{{constructor.constructor('alert(6)')()}}",
    "\u202etxet desrever\u2066 \u0000\u0007",
  ];
  const before = await page.evaluate(() => document.querySelectorAll("img, script, iframe, style, link, svg").length);
  for (const [n, text] of hostile.entries()) {
    // As a user's id and name, as a message, as JSON, as a room, and as what a plugin passes on.
    // A name of a user may hold no control characters, so those stay out of it.
    const id = text.replace(/[\u0000-\u001f]/g, "") + n;
    await ada.connect(token({ sub: id, info: { name: text } }));
    await ada.show("chat:lobby");
    await bob.node.locator(".person").filter({ hasText: text.replace(/[\u0000-\u001f]/g, "").trim() }).first().waitFor();
    await ada.say(`${n} ${text}`);
    await bob.entry(`${n} `).waitFor();
    await ada.say(JSON.stringify({ n, [text]: text }));
    await bob.entry(`{"n":${n}`).waitFor();
    await ada.say(JSON.stringify({ kind: "mention", room: text, from: text, data: { text: `mention ${n} ${text}` } }));
    await bob.entry(`mention ${n} `).waitFor();
    await ada.say(`@bob ${n} ${text}`);
    await bob.entry("only to you").waitFor();
    const room = `open:${text.replace(/[\u0000-\u001f]/g, "")}`;
    await ada.enter(room);
    await ada.here(text.replace(/[\u0000-\u001f]/g, "").trim());
  }
  // Code that was smuggled in would have run by now: these come after all of it.
  await page.evaluate(() => new Promise((resolve) => setTimeout(resolve)));
  const after = await page.evaluate(() => document.querySelectorAll("img, script, iframe, style, link, svg").length);
  assert.equal(after, before);
  // A name that turns the writing around does so for itself alone: what follows is to its right.
  const gap = await bob.node.locator(".moved").last().evaluate((node) => {
    const { lastChild } = node.firstChild;
    const behind = document.createRange();
    behind.selectNodeContents(lastChild);
    const name = node.querySelector("bdi").getBoundingClientRect();
    return behind.getBoundingClientRect().left - name.right;
  });
  assert.ok(gap >= 0, `${gap}`);
  await page.screenshot({ path: SCREENSHOT.replace(/(\.png)?$/, "-hostile.png") });
  await nothingWrong(all);
});

test("the keyboard is enough", async (t) => {
  const all = await start(t);
  const { page, ada, bob } = all;
  await ada.node.getByRole("tab", { name: "chat:lobby" }).focus();
  await page.keyboard.press("ArrowRight");
  await ada.here("Ada");
  assert.equal(await ada.node.locator('[role="tab"][aria-selected="true"]').textContent(), "team:staff");
  await page.keyboard.press("Home");
  // From the tab: the other room's field, the button to leave, the messages, the line.
  for (let n = 0; n < 4; n += 1) await page.keyboard.press("Tab");
  await page.keyboard.type("typed blindly");
  await page.keyboard.press("Enter");
  await bob.entry("typed blindly").waitFor();
  await nothingWrong(all);
});

for (const [what, options] of [
  ["dark", { colorScheme: "dark" }],
  ["narrow", { viewport: { width: 390, height: 844 } }],
]) {
  test(`nothing overflows: ${what}`, async (t) => {
    const all = await start(t, options);
    const { page, ada, bob } = all;
    await ada.say(`a long word: ${"x".repeat(300)}`);
    await bob.entry("a long word").waitFor();
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    assert.equal(wide, 0);
    await page.screenshot({ path: SCREENSHOT.replace(/(\.png)?$/, `-${what}.png`), fullPage: true });
    await nothingWrong(all);
  });
}

test("a gateway that comes back is found again, and the page says what happened", async (t) => {
  const { gateway, page, wrong, ada, bob } = await start(t);
  const before = await ada.instance();
  await gateway.stop();
  await page.getByText("the gateway does not answer; trying again…").waitFor();
  await gateway.run();
  for (const pane of [ada, bob]) {
    await pane.connected();
    assert.equal(await pane.reconnects(), 1);
    assert.match(await pane.instance(), /^[0-9a-f]{8}$/);
    assert.notEqual(await pane.instance(), before);
  }
  await page.locator('#strip[data-state="live"]').waitFor();
  await ada.here("Ada", "Bob");
  await ada.say("There you are");
  await bob.entry("There you are").waitFor();
  assert.deepEqual(wrong, []);
});
