// Plugins and rules are replaced in the middle of traffic, and every message
// is accounted for.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Client } from "../support/client.js";
import { Gateway, fixtureText } from "../support/gateway.js";
import { SECRET, token } from "../support/token.js";

const SWAPS = 40;
/** Messages a second, of each sender. */
const RATE = 300;
const CONFIG = {
  auth: { jwt: { hmac_secret: SECRET } },
  limits: { commands_per_second: 100_000, commands_burst: 100_000 },
  rooms: [{ match: "chat", publish: "members", stamp: true, plugins: ["p"] }],
  plugins: [{ name: "p", path: "p.wat" }],
};

/**
 * A client that publishes numbered messages at a steady rate until it is
 * stopped. How many it sends depends on the time that the swaps take; what is
 * checked is that none of them is missing.
 */
class Sender {
  sent = 0;
  #answers = [];

  constructor(name, room) {
    this.name = name;
    this.room = room;
    const started = performance.now();
    this.timer = setInterval(() => {
      // A timer may come late; the messages that it owes are sent then.
      const due = ((performance.now() - started) * RATE) / 1000;
      while (this.sent < due) {
        const answer = room.publish({ n: this.sent++ });
        // Failures are looked at in the end; until then they are nobody's.
        answer.catch(() => {});
        this.#answers.push(answer);
      }
    }, 3);
  }

  /** Resolves when all that was sent is acknowledged; rejects if one was refused. */
  async stop() {
    clearInterval(this.timer);
    await Promise.all(this.#answers);
  }
}

/** Two senders and a listener, each with a connection of its own, in the same room. */
async function traffic(t, gateway) {
  const names = ["ada", "bob", "listener"];
  const clients = [];
  const rooms = [];
  for (const name of names) {
    clients.push(await Client.connected(t, gateway, { token: token({ sub: name }) }));
    rooms.push(await clients.at(-1).joined("chat"));
  }
  const senders = [new Sender("ada", rooms[0]), new Sender("bob", rooms[1])];
  t.after(() => senders.forEach(({ timer }) => clearInterval(timer)));
  return { clients, rooms, senders, listener: rooms[2] };
}

const generationOf = (publication) => Number(publication.tags.generation);

/** Everything that was sent has arrived everywhere once, in order, each message of one generation. */
async function account({ clients, rooms, senders }) {
  await Promise.all(senders.map((sender) => sender.stop()));
  const total = senders.reduce((sum, { sent }) => sum + sent, 0);
  const pluginsOf = new Map();
  for (const room of rooms) {
    await room.events.until(() => room.publications.length >= total, `all of ${total} messages`);
    assert.equal(room.publications.length, total);
    for (const sender of senders) {
      const own = room.publications.filter(({ info }) => info.user === sender.name);
      assert.equal(own.length, sender.sent);
      const generations = own.map(generationOf);
      assert.ok(generations.every((generation, n) => n === 0 || generation >= generations[n - 1]), "generations only grow");
      sender.check?.(own);
    }
    for (const { tags } of room.publications) {
      // One generation has one set of plugins, whoever looks.
      if (!pluginsOf.has(tags.generation)) pluginsOf.set(tags.generation, tags.plugins);
      assert.equal(tags.plugins, pluginsOf.get(tags.generation));
    }
  }
  for (const client of clients) {
    assert.equal(client.reconnects, 0);
    assert.equal(client.events.of("error").length, 0);
  }
  return { total, generations: pluginsOf.size };
}

function inOrder(own) {
  assert.deepEqual(own.map(({ data }) => data.n), own.map((_, n) => n));
}

test(`${SWAPS} reloads under load: every message arrives once and in order`, async (t) => {
  const pass = await fixtureText("pass");
  const gateway = await Gateway.start(t, CONFIG, { "p.wat": pass });
  const all = await traffic(t, gateway);
  for (const sender of all.senders) sender.check = inOrder;
  for (let generation = 2; generation <= SWAPS + 1; generation += 1) {
    // The same code with another content, so the same answers from another plugin.
    await gateway.write("p.wat", `${pass}\n;; ${generation}\n`);
    await gateway.status((status) => status.generation === generation, `generation ${generation}`);
    // The next one comes only when this one has answered.
    await all.listener.next("publication", (publication) => generationOf(publication) === generation);
  }
  const { total, generations } = await account(all);
  assert.equal(generations, SWAPS + 1);
  t.diagnostic(`${total} messages, each to 3 connections, over ${generations} generations`);
});

test("each message is answered by the plugin that its tags name, and by no other", async (t) => {
  const stamps = { a: await fixtureText("stamp-a"), b: await fixtureText("stamp-b") };
  const gateway = await Gateway.start(t, CONFIG, { "p.wat": stamps.a });
  const all = await traffic(t, gateway);
  const stampOf = ({ tags }) => (Number(tags.plugins.replace("p@", "")) % 2 === 1 ? "a" : "b");
  for (const sender of all.senders) {
    sender.check = (own) => {
      for (const publication of own) assert.deepEqual(publication.data, { stamp: stampOf(publication) });
    };
  }
  for (let generation = 2; generation <= SWAPS + 1; generation += 1) {
    await gateway.write("p.wat", generation % 2 === 0 ? stamps.b : stamps.a);
    await all.listener.next("publication", (publication) => generationOf(publication) === generation);
  }
  const { generations } = await account(all);
  assert.equal(generations, SWAPS + 1);
});

test("a broken plugin changes nothing but the status, until a good one comes", async (t) => {
  const pass = await fixtureText("pass");
  const gateway = await Gateway.start(t, CONFIG, { "p.wat": pass });
  const all = await traffic(t, gateway);
  for (const sender of all.senders) sender.check = inOrder;
  const broken = [
    ["(component", /./],
    ["\u0000asm nonsense", /./],
    ["", /./],
    [await fixtureText("wants-kv"), /kv/],
    [await fixtureText("init-traps"), /trap/],
    [await fixtureText("init-fails"), /settings are missing/],
    [await fixtureText("self-test-fails"), /the self-test says no/],
    [await fixtureText("mistyped-hook"), /authorize/],
    [await fixtureText("no-hooks"), /hook/],
  ];
  let error;
  for (const [text, says] of broken) {
    await gateway.write("p.wat", text);
    const before = error;
    ({ error } = await gateway.status((status) => status.error && status.error !== before, `an error for ${text.slice(0, 40)}`));
    assert.match(error, /p/);
    assert.match(error, says);
    const { generation } = gateway.statuses.all.at(-1);
    assert.equal(generation, 1);
    const seen = all.listener.publications.length;
    await all.listener.events.until(() => all.listener.publications.length > seen + 10, "messages go on");
    assert.equal(generationOf(all.listener.publications.at(-1)), 1);
  }
  await gateway.write("p.wat", `${pass}\n;; mended\n`);
  const mended = await gateway.status((status) => status.generation === 2);
  assert.equal(mended.error, null);
  await all.listener.next("publication", (publication) => generationOf(publication) === 2);
  assert.deepEqual((await account(all)).generations, 2);
});

/** Ada speaks in `orders`; Bob is to hear of it in `audit`, once a rule says so. */
async function orders(t, gateway) {
  const ada = await Client.connected(t, gateway, { token: token({ sub: "ada" }) });
  const bob = await Client.connected(t, gateway, { token: token({ sub: "bob" }) });
  return { ada, bob, orders: await ada.joined("orders"), audit: await bob.joined("audit") };
}

const ORDERS = {
  auth: { jwt: { hmac_secret: SECRET } },
  rooms: [{ match: "*", publish: "members", stamp: true }],
};
const RULE = { routes: [{ room: "orders", to: ["room:audit"] }] };

test("a routing rule takes effect on open connections when the config file changes, and ends so too", async (t) => {
  const gateway = await Gateway.start(t, ORDERS);
  const { ada, bob, orders: room, audit } = await orders(t, gateway);
  await room.publish({ n: 1 });
  await gateway.configure({ ...ORDERS, ...RULE });
  await gateway.status(({ generation }) => generation === 2);
  await room.publish({ n: 2 });
  const { data, tags } = await audit.next("publication");
  assert.deepEqual({ data, generation: tags.generation }, { data: { n: 2 }, generation: "2" });
  await gateway.configure(ORDERS);
  await gateway.status(({ generation }) => generation === 3);
  await room.publish({ n: 3 });
  await audit.publish({ n: 4 });
  await audit.next("publication", (publication) => publication.data.n === 4);
  assert.deepEqual(audit.publications.map((publication) => publication.data.n), [2, 4]);
  assert.equal(ada.reconnects + bob.reconnects, 0);
});

test("a config with mistakes is told and changes nothing", async (t) => {
  const gateway = await Gateway.start(t, ORDERS);
  const { ada, bob, orders: room, audit } = await orders(t, gateway);
  await gateway.configure({ ...ORDERS, routes: [{ room: "orders", tos: ["room:audit"] }] });
  const { error, generation } = await gateway.status((status) => status.error);
  assert.match(error, /tos/);
  assert.equal(generation, 1);
  await room.publish({ n: 1 });
  assert.equal((await room.next("publication")).tags.generation, "1");
  await gateway.configure({ ...ORDERS, ...RULE });
  await gateway.status((status) => status.generation === 2 && status.error === null);
  await room.publish({ n: 2 });
  await audit.next("publication", ({ data }) => data.n === 2);
  assert.equal(ada.reconnects + bob.reconnects, 0);
});

test("SIGHUP reloads what no watch has seen", async (t) => {
  // A file behind a link into another folder: its changes are not noticed.
  const gateway = await Gateway.start(t, ORDERS, {}, { behindLink: true });
  const { ada, bob, orders: room, audit } = await orders(t, gateway);
  await gateway.configure({ ...ORDERS, ...RULE });
  gateway.signal("SIGHUP");
  await gateway.log.first((line) => line.includes("reloaded") && line.includes("SIGHUP"), "a reload by SIGHUP");
  await room.publish({ n: 1 });
  await audit.next("publication", ({ data }) => data.n === 1);
  assert.equal(ada.reconnects + bob.reconnects, 0);
});

test("a plugin that is added to a room answers in it from then on", async (t) => {
  const gateway = await Gateway.start(t, ORDERS, { "replace.wat": await fixtureText("replace") });
  const { ada, orders: room } = await orders(t, gateway);
  await room.publish({ n: 1 });
  await gateway.configure({
    ...ORDERS,
    rooms: [{ match: "orders", publish: "members", plugins: ["r"] }],
    plugins: [{ name: "r", path: "replace.wat" }],
  });
  const { plugins } = await gateway.status(({ generation }) => generation === 2);
  assert.deepEqual(plugins.map(({ name, generation, hooks }) => ({ name, generation, hooks })),
    [{ name: "r", generation: 1, hooks: ["transform"] }]);
  await room.publish({ n: 2 });
  await room.events.until(() => room.publications.length === 2);
  assert.deepEqual(room.publications.map(({ data }) => data), [{ n: 1 }, { replaced: true }]);
  assert.equal(ada.reconnects, 0);
});
