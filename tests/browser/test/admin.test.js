// The admin page, as somebody who runs the gateway sees it.

import assert from "node:assert/strict";
import { mkdir } from "node:fs/promises";
import { dirname } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { Centrifuge } from "centrifuge";
import WebSocket from "ws";
import { Gateway, fixtureText } from "../../clients/js/support/gateway.js";
import { SECRET, token } from "../../clients/js/support/token.js";
import { browser, watched } from "../support/browser.js";

const SCREENSHOT = process.env.ADMIN_SCREENSHOT || fileURLToPath(new URL("../out/admin.png", import.meta.url));
const KEY = "a key of the tests";
const CONFIG = {
  admin: { enabled: true },
  api: { keys: [{ name: "tests", key: KEY }] },
  auth: { anonymous: true, jwt: { hmac_secret: SECRET } },
  limits: { name_length: 1000 },
  rooms: [{ match: "*", publish: "members", presence: true, join_leave: true, plugins: ["p"] }],
  plugins: [{ name: "p", path: "p.wat" }],
};

async function start(t, options) {
  const gateway = await Gateway.start(t, CONFIG, { "p.wat": await fixtureText("pass") });
  const opened = await watched(await browser(t, options), gateway, "/admin");
  return { gateway, ...opened };
}

async function enter(page) {
  await page.getByLabel("Key").fill(KEY);
  await page.getByRole("button", { name: "Open" }).click();
  await page.locator("#nav").waitFor();
}

const view = (page, name) => page.getByRole("navigation").getByRole("link", { name }).click();

/** A connected client that ends with the test. */
async function client(t, gateway, claims, rooms = []) {
  const client = new Centrifuge(gateway.websocket, { token: token(claims), websocket: WebSocket });
  t.after(() => client.disconnect());
  const subscriptions = rooms.map((room) => {
    const subscription = client.newSubscription(room);
    subscription.subscribe();
    return subscription;
  });
  client.connect();
  await client.ready();
  for (const subscription of subscriptions) await subscription.ready();
  return { client, subscriptions };
}

/** As a backend. */
async function api(gateway, method, parameters) {
  const options = { method: "POST", headers: { "X-API-Key": KEY }, body: JSON.stringify(parameters) };
  return (await (await fetch(`${gateway.url}/api/${method}`, options)).json()).result;
}

test("nothing is shown without a good key, and none is kept in a cookie", async (t) => {
  const { page, wrong, gateway } = await start(t);
  await page.getByLabel("Key").fill("not the key of the tests");
  await page.getByRole("button", { name: "Open" }).click();
  await page.getByText("This is none of the keys.").waitFor();
  assert.equal(await page.locator("#nav").isVisible(), false);
  await enter(page);
  await page.getByText("1 instance, 0 connections").waitFor();
  assert.equal(await page.evaluate(() => document.cookie), "");
  assert.equal(await page.evaluate(() => Object.keys(localStorage).length), 0);
  await page.reload();
  await page.getByText("1 instance, 0 connections").waitFor();
  await page.getByRole("button", { name: "Forget the key" }).click();
  await page.getByLabel("Key").waitFor();
  assert.equal(await page.evaluate(() => sessionStorage.length), 0);

  const response = await fetch(`${gateway.url}/admin`);
  const policy = response.headers.get("content-security-policy");
  assert.match(policy, /default-src 'self'/);
  assert.match(policy, /frame-ancestors 'none'/);
  assert.equal(response.headers.get("x-content-type-options"), "nosniff");
  await gateway.configure({ ...CONFIG, admin: { enabled: false } });
  await gateway.status(({ generation }) => generation === 2);
  for (const path of ["/admin", "/admin/admin.js"]) assert.equal((await fetch(gateway.url + path)).status, 404);
  // A refused key is told by the browser, too.
  assert.deepEqual(wrong, []);
});

test("what is there is shown, and deeds are done after a question", async (t) => {
  const { gateway, page, wrong } = await start(t);
  const ada = await client(t, gateway, { sub: "ada", info: { name: "Ada" } }, ["chat:lobby", "team:staff"]);
  const bob = await client(t, gateway, { sub: "bob" }, ["chat:lobby"]);
  await enter(page);
  await page.getByText("1 instance, 2 connections").waitFor();
  for (let n = 0; n < 20; n += 1) await bob.subscriptions[0].publish({ n });
  // Rates need two looks; by then the plots have a point.
  await page.getByRole("img", { name: /Messages a second: now [\d.]+/ }).waitFor();
  await page.getByRole("img", { name: /Connections: now 2/ }).waitFor();

  await view(page, "Rooms");
  await page.getByRole("row", { name: /chat:lobby 2/ }).getByRole("button", { name: "Members" }).click();
  await page.locator("#members").getByText("ada", { exact: true }).waitFor();
  await view(page, "Users");
  await page.getByRole("row", { name: /^ada 1/ }).waitFor();
  await page.locator("#users input").fill("nobody");
  await page.getByRole("button", { name: "Look up" }).click();
  await page.getByText("nobody is not online").waitFor();
  await view(page, "Instances");
  await page.getByRole("row", { name: /answers/ }).waitFor();

  await view(page, "Live");
  await page.locator("#tail select").selectOption("room");
  await page.locator("#tail input").fill("chat:lobby");
  await page.getByRole("button", { name: "Follow" }).click();
  const lines = page.locator("#lines");
  await lines.getByText("room:chat:lobby").waitFor();
  await bob.subscriptions[0].publish({ text: "seen by those who look" });
  await lines.getByText("seen by those who look").waitFor();

  await view(page, "Connections");
  const row = page.getByRole("row", { name: /ada/ });
  await row.getByRole("button", { name: "Disconnect" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Cancel" }).click();
  await row.getByRole("button", { name: "Disconnect" }).click();
  const ended = new Promise((resolve) => ada.client.once("disconnected", resolve));
  await page.getByRole("dialog").getByRole("button", { name: "Disconnect" }).click();
  assert.equal((await ended).code, 3503);
  await row.waitFor({ state: "detached" });

  await view(page, "Plugins");
  await page.getByRole("row", { name: /^p 1 .* transform 2\d/ }).waitFor();
  assert.equal(await page.getByRole("button", { name: "Roll back all instances" }).isDisabled(), true);
  await gateway.write("p.wat", await fixtureText("trap"));
  await page.getByRole("row", { name: /^p 2/ }).waitFor();
  await assert.rejects(bob.subscriptions[0].publish({}));
  await page.getByRole("row", { name: /trap 1/ }).waitFor();
  await page.getByRole("button", { name: "Roll back all instances" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Roll back" }).click();
  await page.getByText("generation 3, rolled back").waitFor();
  await bob.subscriptions[0].publish({});
  await page.getByRole("button", { name: "Reload all instances" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Reload" }).click();
  await page.getByText("generation 4", { exact: true }).waitFor();
  await gateway.write("p.wat", "(component\n  oops <b>bold</b>");
  await page.locator("#reload-error").getByText("oops").waitFor();
  assert.deepEqual(wrong, []);
});

/** Row T16. */
test("t16: hostile names execute nothing and are shown escaped", async (t) => {
  const { gateway, page, wrong } = await start(t);
  const hostile = [
    '<img src=x onerror="alert(1)">',
    "<script>alert(2)</script>",
    `"'><svg onload=alert(3)>`,
    "javascript:alert(4)",
    "</bdi></td></table><iframe srcdoc='<script>parent.alert(5)</script>'>",
    "<style>body{display:none}</style><link rel=stylesheet href=https://elsewhere.example/x.css>",
    "__proto__",
    "constructor",
    "\u202etxet desrever\u2066 \u200b\u00ad",
    "x".repeat(400),
  ];
  await enter(page);
  await view(page, "Live");
  await page.getByRole("button", { name: "Follow" }).click();
  await page.locator("#lines").getByText("everything").waitFor();
  const before = await page.evaluate(() => document.querySelectorAll("img, script, iframe, style, link").length);
  const controls = "\u0000\u0007\u001b[31m";
  for (const [n, text] of hostile.entries()) {
    // As a user, in its info, as a room, as data and as the key in data. Names hold no control
    // characters, so those are in info and data alone.
    const info = { name: text + controls, [text]: text };
    const { subscriptions } = await client(t, gateway, { sub: text, info }, [`${n} ${text}`]);
    await subscriptions[0].publish({ [text]: text + controls, n: `end ${n}` });
    await page.locator("#lines").getByText(`end ${n}`).waitFor();
  }
  await view(page, "Rooms");
  const escaped = (text) => text.replace(/[\u00ad\u200b\u202e\u2066]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
  for (const [n, text] of hostile.entries()) {
    await page.locator("#rooms td bdi").filter({ hasText: `${n} ${escaped(text)}` }).first().waitFor();
  }
  await page.getByRole("row", { name: /^0 / }).getByRole("button", { name: "Members" }).click();
  await page.locator("#members bdi").first().waitFor();
  await view(page, "Users");
  for (const text of hostile) await page.locator("#users td bdi").filter({ hasText: escaped(text) }).first().waitFor();
  await view(page, "Connections");
  await page.locator("#connections td").filter({ hasText: "\\u0007" }).first().waitFor();
  const row = page.locator("#connections tr").filter({ hasText: "<script>alert(2)" });
  await row.getByRole("button", { name: "Disconnect" }).click();
  await page.getByRole("dialog").locator("bdi").filter({ hasText: "<script>alert(2)" }).waitFor();
  await page.getByRole("dialog").getByRole("button", { name: "Cancel" }).click();
  // Code that was smuggled in would have run by now: this comes after all of it.
  await page.evaluate(() => new Promise((resolve) => setTimeout(resolve)));
  assert.equal(await page.evaluate(() => document.querySelectorAll("img, script, iframe, style, link").length), before);
  // Nothing is left that cannot be seen or turns the writing around.
  const unseen = await page.evaluate(() => /[\u0000-\u0009\u000b-\u001f\u200b\u202e\u2066]/.test(document.body.textContent));
  assert.equal(unseen, false);
  assert.deepEqual(wrong, []);
});

test("a key that is limited says what it is not for, and the page goes on", async (t) => {
  const { gateway, page, wrong } = await start(t);
  const limited = { name: "limited", key: "a key for a part of it", methods: ["instances", "channels"] };
  await gateway.configure({ ...CONFIG, api: { keys: [...CONFIG.api.keys, limited] } });
  await gateway.status(({ generation }) => generation === 2);
  await client(t, gateway, { sub: "ada" }, ["chat:lobby"]);
  await page.getByLabel("Key").fill(limited.key);
  await page.getByRole("button", { name: "Open" }).click();
  await view(page, "Plugins");
  await page.getByText("the key `limited` is not for the method `plugins`").waitFor();
  await view(page, "Rooms");
  await page.getByRole("row", { name: /chat:lobby/ }).waitFor();
  await page.locator("#trouble").waitFor({ state: "hidden" });
  assert.deepEqual(wrong, []);
});

for (const [what, options] of [
  ["light", { viewport: { width: 1100, height: 560 } }],
  ["dark", { colorScheme: "dark" }],
  ["narrow", { viewport: { width: 390, height: 844 } }],
]) {
  test(`nothing overflows, and the keyboard is enough: ${what}`, async (t) => {
    const { gateway, page, wrong } = await start(t, options);
    const { subscriptions } = await client(t, gateway, { sub: "u".repeat(200), info: { long: "x".repeat(300) } }, ["r".repeat(200)]);
    for (let n = 0; n < 12; n += 1) await client(t, gateway, { sub: `user-${n}` }, ["chat:lobby", `chat:${n % 4}`]);
    await page.getByLabel("Key").focus();
    await page.keyboard.type(KEY);
    await page.keyboard.press("Enter");
    await page.getByRole("img", { name: /Deliveries a second: now/ }).waitFor();
    const overflow = () => page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    const publishing = setInterval(() => api(gateway, "publish", { channel: "chat:lobby", data: 1 }).catch(() => {}), 40);
    t.after(() => clearInterval(publishing));
    // Some of it is to be seen in the picture.
    await page.waitForFunction(() => document.querySelector("#plots polyline")?.points.numberOfItems >= (innerWidth > 1000 ? 6 : 2));
    await mkdir(dirname(SCREENSHOT), { recursive: true });
    await page.screenshot({ path: SCREENSHOT.replace(/(\.png)?$/, what === "light" ? ".png" : `-${what}.png`) });
    await subscriptions[0].publish({ long: "y".repeat(500) });
    for (const name of ["Overview", "Connections", "Rooms", "Users", "Plugins", "Instances", "Live"]) {
      await page.getByRole("link", { name }).focus();
      await page.keyboard.press("Enter");
      await page.locator(`#${name === "Live" ? "tail" : name.toLowerCase()}`).waitFor();
      if (!["Overview", "Live"].includes(name)) await page.locator(`#${name.toLowerCase()} tbody tr`).first().waitFor();
      assert.equal(await overflow(), 0, name);
    }
    assert.deepEqual(wrong, []);
  });
}
