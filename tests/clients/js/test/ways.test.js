// The ways to the gateway: JSON and Protobuf over a WebSocket, and for those who
// cannot have one, a response that goes on, as lines or as events.

import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";
import { Client, WAYS, refusal } from "../support/client.js";
import { cluster } from "../support/cluster.js";
import { Gateway } from "../support/gateway.js";
import { SECRET, token } from "../support/token.js";

const CONFIG = {
  auth: { anonymous: true, jwt: { hmac_secret: SECRET } },
  server: { ping_interval: "1s", pong_timeout: "500ms" },
  rooms: [
    { match: "kept:*", publish: "members", presence: true, join_leave: true, history: { size: 100, ttl: "5m" }, recovery: true },
    { match: "chat:*", publish: "members", presence: true },
  ],
};

const utf8 = new TextEncoder();

/** A value as a client that goes that way sends it. */
function sent(way, value) {
  return way.startsWith("protobuf") ? utf8.encode(JSON.stringify(value)) : value;
}

/** A value as a client that goes that way has received it. */
function received(way, data) {
  return way.startsWith("protobuf") ? JSON.parse(new TextDecoder().decode(data)) : data;
}

for (const way of WAYS) {
  test(`${way}: everything that a client can do`, async (t) => {
    const gateway = await Gateway.start(t, CONFIG);
    const ada = await Client.connected(t, gateway, { way, token: token({ sub: "ada", info: { name: "Ada" } }) });
    const bob = await Client.connected(t, gateway, { token: token({ sub: "bob" }) });
    const theirs = await bob.joined("kept:1");
    const mine = await ada.joined("kept:1");
    const join = await theirs.next("join");
    assert.deepEqual([join.info.user, join.info.connInfo], ["ada", { name: "Ada" }]);

    await mine.publish(sent(way, { text: "grüße \u2028" }));
    assert.deepEqual((await theirs.next("publication")).data, { text: "grüße \u2028" });
    await theirs.publish([1, 2.5, null]);
    const heard = await mine.next("publication", ({ offset }) => offset === 2);
    assert.deepEqual(received(way, heard.data), [1, 2.5, null]);
    assert.equal(heard.info.user, "bob");

    const { clients } = await mine.subscription.presence();
    assert.deepEqual(Object.values(clients).map(({ user }) => user).sort(), ["ada", "bob"]);
    assert.deepEqual(await mine.subscription.presenceStats(), { numClients: 2, numUsers: 2 });
    const { publications, offset } = await mine.subscription.history({ limit: 10 });
    assert.deepEqual([publications.length, offset], [2, 2]);
    assert.deepEqual(received(way, publications[1].data), [1, 2.5, null]);
    assert.equal((await refusal(ada.centrifuge.rpc("nothing", sent(way, {})))).code, 104);
    const nowhere = ada.room("nowhere");
    nowhere.subscription.subscribe();
    assert.equal((await nowhere.next("unsubscribed")).code, 102);

    mine.subscription.unsubscribe();
    assert.equal((await theirs.next("leave")).info.user, "ada");
    ada.centrifuge.disconnect();
    await ada.next("disconnected");
  });

  test(`${way}: a client that was away gets what it has missed`, async (t) => {
    const gateway = await Gateway.start(t, CONFIG);
    const ada = await Client.connected(t, gateway, { way });
    const bob = await Client.connected(t, gateway);
    const mine = await ada.joined("kept:1");
    const theirs = await bob.joined("kept:1");
    await theirs.publish(1);
    await mine.next("publication");
    ada.centrifuge.disconnect();
    await ada.next("disconnected");
    for (const n of [2, 3, 4]) await theirs.publish(n);
    ada.centrifuge.connect();
    const back = await mine.events.until(() => mine.events.of("subscribed")[1], "it is back");
    assert.deepEqual([back.wasRecovering, back.recovered], [true, true]);
    await theirs.publish(5);
    await mine.next("publication", ({ offset }) => offset === 5);
    assert.deepEqual(mine.publications.map(({ data }) => received(way, data)), [1, 2, 3, 4, 5]);
  });

  test(`${way}: it stays while it answers pings, and hears why it ends`, async (t) => {
    const gateway = await Gateway.start(t, CONFIG);
    const ada = await Client.connected(t, gateway, { way });
    const room = await ada.joined("chat:1");
    await gateway.metricReaches("wayleave_commands_total", { kind: "pong" }, 2);
    await room.publish(sent(way, "still here"));
    assert.equal(ada.reconnects, 0);
    await gateway.stop();
    const { code, reason } = await ada.next("connecting", ({ code }) => code !== 0);
    assert.deepEqual([code, reason], [3001, "shutdown"]);
  });
}

test("what clients of different ways say to each other all understand", async (t) => {
  const gateway = await Gateway.start(t, CONFIG);
  const rooms = [];
  for (const way of WAYS) rooms.push([way, await (await Client.connected(t, gateway, { way })).joined("chat:all")]);
  for (const [way, room] of rooms) await room.publish(sent(way, { from: way }));
  for (const [way, room] of rooms) {
    await room.events.until(() => room.publications.length === WAYS.length, `${way} has heard all`);
    assert.deepEqual(room.publications.map(({ data }) => received(way, data).from), WAYS);
  }
});

test("bytes that are no JSON pass as they are, and as base64 to those who speak JSON", async (t) => {
  const gateway = await Gateway.start(t, CONFIG);
  const bytes = Uint8Array.from([0, 255, 10, 123, 128]);
  const way = "protobuf";
  const sender = await (await Client.connected(t, gateway, { way })).joined("chat:bytes");
  const speaksJson = await (await Client.connected(t, gateway)).joined("chat:bytes");
  await sender.publish(bytes);
  assert.deepEqual(Uint8Array.from((await sender.next("publication")).data), bytes);
  assert.equal((await speaksJson.next("publication")).data, Buffer.from(bytes).toString("base64"));
});

test("row M10: a client without a WebSocket needs no sticky session", async (t) => {
  const { gateways } = await cluster(t, CONFIG, ["a", "b", "c"]);
  for (const way of ["http_stream", "protobuf http_stream", "sse"]) {
    for (const [n, gateway] of gateways.entries()) {
      // What it hears comes from one instance, what it says goes to the next.
      const other = gateways[(n + 1) % gateways.length];
      const client = await Client.connected(t, gateway, { way, emulationEndpoint: `${other.url}/emulation` });
      const room = await client.joined(`kept:${way} ${n}`);
      for (let n = 1; n <= 9; n++) {
        await room.publish(sent(way, n));
        await room.next("publication", ({ offset }) => offset === n);
      }
      assert.equal(client.reconnects, 0);
    }
  }
  const lost = await fetch(`${gateways[0].url}/emulation`, {
    method: "POST",
    body: JSON.stringify({ node: "00000000000000ff", session: "s", data: "{}" }),
  });
  assert.equal(lost.status, 404);
});

test("who names no instance, or a stream that is gone, is told so", async (t) => {
  const gateway = await Gateway.start(t, CONFIG);
  const say = (body, headers = {}) =>
    fetch(`${gateway.url}/emulation`, { method: "POST", body: JSON.stringify(body), headers });
  assert.equal((await say({ node: "0123456789abcdef", session: "s", data: "{}" })).status, 404);
  assert.equal((await say({ node: "../../x", session: "s", data: "{}" })).status, 404);
  assert.equal((await say({ session: "s" })).status, 400);
  const events = `${gateway.url}/connection/sse?cf_connect=${encodeURIComponent('{"id":1,"connect":{}}')}`;
  // A page of elsewhere that shows an "image": browsers name no origin for it.
  for (const [site, status] of [["cross-site", 403], ["same-site", 403]]) {
    assert.equal((await fetch(events, { headers: { "Sec-Fetch-Site": site } })).status, status);
  }
  const own = (await fetch(events)).body;
  const reader = own.getReader();
  const { value } = await reader.read();
  const { connect } = JSON.parse(new TextDecoder().decode(value).slice("data: ".length));
  assert.match(connect.session, /^[0-9a-f]{32}$/);
  assert.notEqual(connect.session, connect.client);
  assert.equal((await say({ node: connect.node, session: "0".repeat(32), data: "{}" })).status, 204);
  assert.equal((await say({ node: connect.node, session: connect.session, data: "x".repeat(70_000) })).status, 413);
  const evil = { Origin: "https://evil.example" };
  assert.equal((await say({ node: connect.node, session: connect.session, data: "{}" }, evil)).status, 403);
  await reader.cancel();
});
