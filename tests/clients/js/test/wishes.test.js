// How a client may want to hear a room: differences, some messages only, the
// newest one, and who comes and goes.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Client, WAYS } from "../support/client.js";
import { cluster } from "../support/cluster.js";
import { Gateway } from "../support/gateway.js";

const KEY = "a key that nobody guesses";
const CONFIG = {
  auth: { anonymous: true },
  api: { keys: [{ name: "test", key: KEY }] },
  rooms: [
    { match: "delta:*", publish: "members", delta: true, history: { size: 100, ttl: "5m" }, recovery: true },
    { match: "tags:*", tags_filter: true, history: { size: 100, ttl: "5m" }, recovery: true },
    { match: "cache:*", publish: "members", history: { size: 1, ttl: "5m" }, recovery: "cache" },
    { match: "quiet:*", join_leave: true, join_leave_on_demand: true },
    { match: "plain:*", publish: "members" },
  ],
};

const utf8 = new TextEncoder();

function sent(way, value) {
  return way.startsWith("protobuf") ? utf8.encode(JSON.stringify(value)) : value;
}

function received(way, data) {
  return way.startsWith("protobuf") ? JSON.parse(new TextDecoder().decode(data)) : data;
}

async function publish(gateway, channel, data, tags) {
  const response = await fetch(`${gateway.url}/api/publish`, {
    method: "POST",
    headers: { "X-API-Key": KEY },
    body: JSON.stringify({ channel, data, tags }),
  });
  const { result, error } = await response.json();
  assert.ok(result, JSON.stringify(error));
}

/** A large document, a little different for each `n`. */
function document(n) {
  return { n, text: `grüße ${"ü".repeat(n)}`, list: Array.from({ length: 200 }, (_, i) => (i === n ? "changed" : `entry ${i}`)) };
}

for (const way of WAYS) {
  test(`${way}: differences make the same messages, and are short`, async (t) => {
    const gateway = await Gateway.start(t, CONFIG);
    const sender = await (await Client.connected(t, gateway)).joined("delta:1");
    const ada = await Client.connected(t, gateway, { way });
    const room = await ada.joined("delta:1", { delta: "fossil" });
    for (let n = 0; n < 20; n++) await sender.publish(document(n));
    await room.next("publication", ({ offset }) => offset === 20);
    assert.deepEqual(room.publications.map(({ data }) => received(way, data)), Array.from({ length: 20 }, (_, n) => document(n)));
    const { numPublications, numDeltaPayloads, compressionRatio } = room.subscription.deltaStats();
    assert.equal(numPublications, 20);
    assert.ok(numDeltaPayloads >= 18, `${numDeltaPayloads} differences`);
    assert.ok(compressionRatio > 0.8, `${compressionRatio}`);

    // What it has missed comes whole, and differences go on behind that.
    ada.centrifuge.disconnect();
    await ada.next("disconnected");
    await sender.publish(document(20));
    ada.centrifuge.connect();
    const back = await room.events.until(() => room.events.of("subscribed")[1], "it is back");
    assert.equal(back.recovered, true);
    for (const n of [21, 22]) await sender.publish(document(n));
    await room.next("publication", ({ offset }) => offset === 23);
    assert.deepEqual(
      room.publications.slice(20).map(({ data }) => received(way, data)),
      [20, 21, 22].map(document),
    );
    assert.deepEqual(sender.publications.at(-1).data, document(22));
  });

  test(`${way}: a filter lets only those messages through that it names`, async (t) => {
    const gateway = await Gateway.start(t, CONFIG);
    const ada = await Client.connected(t, gateway, { way });
    const tagsFilter = { op: "and", nodes: [{ key: "team", cmp: "eq", val: "red" }, { key: "level", cmp: "gte", val: "2" }] };
    const room = await ada.joined("tags:1", { tagsFilter });
    const all = await (await Client.connected(t, gateway)).joined("tags:1");
    const tags = [["red", "1"], ["red", "2"], ["blue", "9"], ["red", "10"]];
    for (const [n, [team, level]] of tags.entries()) await publish(gateway, "tags:1", n, { team, level });
    await room.next("publication", ({ offset }) => offset === 4);
    assert.deepEqual(room.publications.map(({ data }) => received(way, data)), [1, 3]);
    await all.next("publication", ({ offset }) => offset === 4);
    assert.equal(all.publications.length, 4);

    ada.centrifuge.disconnect();
    await ada.next("disconnected");
    for (const team of ["blue", "red"]) await publish(gateway, "tags:1", team, { team, level: "5" });
    ada.centrifuge.connect();
    const back = await room.events.until(() => room.events.of("subscribed")[1], "it is back");
    assert.deepEqual([back.recovered, back.streamPosition?.offset ?? 6], [true, 6]);
    assert.deepEqual(room.publications.map(({ data }) => received(way, data)), [1, 3, "red"]);
  });
}

test("a filter where there are none is refused, and one that makes no sense", async (t) => {
  const gateway = await Gateway.start(t, CONFIG);
  const ada = await Client.connected(t, gateway);
  for (const [name, tagsFilter] of [["plain:1", { key: "a", cmp: "ex" }], ["tags:1", { key: "a", cmp: "like" }], ["tags:2", { op: "not", nodes: [] }]]) {
    const room = ada.room(name, { tagsFilter });
    room.subscription.subscribe();
    assert.equal((await room.next("unsubscribed")).code, 107, name);
  }
});

test("differences where there are none are whole messages", async (t) => {
  const gateway = await Gateway.start(t, CONFIG);
  const room = await (await Client.connected(t, gateway)).joined("plain:1", { delta: "fossil" });
  for (const n of [0, 1, 2]) await room.publish(document(n));
  await room.events.until(() => room.publications.length === 3, "all are here");
  assert.deepEqual(room.publications.map(({ data }) => data), [0, 1, 2].map(document));
});

test("a room that is a cache gives its newest message to whoever comes", async (t) => {
  const { gateways } = await cluster(t, CONFIG, ["a", "b"]);
  const sender = await (await Client.connected(t, gateways[0])).joined("cache:1");
  for (const n of [1, 2, 3]) await sender.publish(n);
  for (const way of WAYS) {
    const ada = await Client.connected(t, gateways[1], { way });
    const room = await ada.joined("cache:1", { since: { offset: 0, epoch: "" } });
    assert.equal(received(way, (await room.next("publication")).data), 3);
    const plain = await (await Client.connected(t, gateways[1], { way })).joined("cache:1");
    assert.equal(received(way, (await plain.next("publication")).data), 3);
    // It has the newest one.
    ada.centrifuge.disconnect();
    await ada.next("disconnected");
    ada.centrifuge.connect();
    const back = await room.events.until(() => room.events.of("subscribed")[1], "it is back");
    assert.equal(back.recovered, true);
    assert.equal(room.publications.length, 1);
  }
});

test("who comes and goes is told to those who have asked", async (t) => {
  const gateway = await Gateway.start(t, CONFIG);
  const [ada, bob, eve] = [await Client.connected(t, gateway), await Client.connected(t, gateway), await Client.connected(t, gateway)];
  const asked = await ada.joined("quiet:1", { joinLeave: true });
  const not = await bob.joined("quiet:1");
  const third = await eve.joined("quiet:1");
  await asked.next("join", ({ info }) => info.client === eve.id);
  third.subscription.unsubscribe();
  await asked.next("leave", ({ info }) => info.client === eve.id);
  assert.deepEqual([not.events.of("join"), not.events.of("leave")], [[], []]);
});
