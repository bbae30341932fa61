// What happens in rooms: in and out, who is there, who says what.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Client, refusal } from "../support/client.js";
import { Gateway, fixture } from "../support/gateway.js";
import { SECRET, token } from "../support/token.js";

const AUTH = { anonymous: true, jwt: { hmac_secret: SECRET } };
const ADA = { token: token({ sub: "ada", info: { name: "Ada" } }) };
const BOB = { token: token({ sub: "bob" }) };

/** The part of a member that the wire carries; the client keeps its own copies beside it. */
function member({ client, user, connInfo }) {
  return { client, user, connInfo };
}

test("what one publishes all members receive, with its sender", async (t) => {
  const gateway = await Gateway.start(t, { auth: AUTH, rooms: [{ match: "chat:*", publish: "members" }] });
  const [ada, bob, eve] = [
    await Client.connected(t, gateway, ADA),
    await Client.connected(t, gateway, BOB),
    await Client.connected(t, gateway, BOB),
  ];
  const rooms = [await ada.joined("chat:1"), await bob.joined("chat:1")];
  const other = await eve.joined("chat:2");
  const data = { text: "grüße, 世界 \u2028 \"\\", list: [1, 2.5, null, true], nested: { deep: [{}] } };
  await rooms[0].publish(data);
  for (const room of rooms) {
    const publication = await room.next("publication");
    assert.deepEqual(publication.data, data);
    assert.deepEqual(member(publication.info), { client: ada.id, user: "ada", connInfo: { name: "Ada" } });
    assert.equal(publication.channel, "chat:1");
  }
  // What is behind it in its own room has arrived, so it would have, too.
  await other.publish({ end: true });
  await other.next("publication");
  assert.equal(other.publications.length, 1);
});

test("whatever is JSON may be published", async (t) => {
  const gateway = await Gateway.start(t, { auth: AUTH, rooms: [{ match: "chat", publish: "members" }] });
  const client = await Client.connected(t, gateway);
  const room = await client.joined("chat");
  const all = [{}, [], "", "text", 0, -1.5e30, true, false, { "": [[]] }, "\u0000\ud800"];
  for (const data of all) await room.publish(data);
  const received = await room.events.until(() => room.publications.length >= all.length && room.publications);
  assert.deepEqual(received.map(({ data }) => data), all);
});

test("null is JSON too", async (t) => {
  const gateway = await Gateway.start(t, { auth: AUTH, rooms: [{ match: "chat", publish: "members" }] });
  const client = await Client.connected(t, gateway);
  const room = await client.joined("chat");
  await room.publish(null);
  assert.equal((await room.next("publication")).data, null);
});

test("many commands in one frame are answered one by one, in order", async (t) => {
  const gateway = await Gateway.start(t, { auth: AUTH, rooms: [{ match: "chat", publish: "members" }] });
  const client = await Client.connected(t, gateway);
  const room = await client.joined("chat");
  client.centrifuge.startBatching();
  const sent = Array.from({ length: 100 }, (_, n) => room.publish({ n }));
  client.centrifuge.stopBatching();
  await Promise.all(sent);
  const received = await room.events.until(() => room.publications.length >= 100 && room.publications);
  assert.deepEqual(received.map(({ data }) => data.n), sent.map((_, n) => n));
});

test("who has left hears nothing any more, and may come back", async (t) => {
  const gateway = await Gateway.start(t, { auth: AUTH, rooms: [{ match: "chat", publish: "members" }] });
  const [ada, bob] = [await Client.connected(t, gateway, ADA), await Client.connected(t, gateway, BOB)];
  const [speaker, listener] = [await ada.joined("chat"), await bob.joined("chat")];
  await speaker.publish({ n: 1 });
  await listener.next("publication");
  listener.subscription.unsubscribe();
  // Commands of a connection are carried out in order, so this one comes after.
  await refusal(bob.centrifuge.presenceStats("chat"));
  await speaker.publish({ n: 2 });
  await assert.rejects(bob.centrifuge.publish("chat", {}), { code: 103 });
  listener.subscription.subscribe();
  await listener.ready();
  await speaker.publish({ n: 3 });
  await listener.next("publication", ({ data }) => data.n === 3);
  assert.deepEqual(listener.publications.map(({ data }) => data.n), [1, 3]);
});

test("a room that the config does not know is refused: 102", async (t) => {
  const gateway = await Gateway.start(t, { auth: AUTH, rooms: [{ match: "chat:*" }] });
  const client = await Client.connected(t, gateway);
  const room = client.room("nowhere");
  room.subscription.subscribe();
  const { code, reason } = await room.next("unsubscribed");
  assert.deepEqual({ code, reason }, { code: 102, reason: "unknown channel" });
  assert.deepEqual(await refusal(client.centrifuge.publish("nowhere", {})), { code: 102, message: "unknown channel" });
  assert.equal(client.reconnects, 0);
});

test("who is here: presence, its counts, and news of it", async (t) => {
  const gateway = await Gateway.start(t, {
    auth: AUTH,
    rooms: [{ match: "chat", presence: true, join_leave: true }],
  });
  const ada = await Client.connected(t, gateway, ADA);
  const room = await ada.joined("chat");
  const bob = await Client.connected(t, gateway, BOB);
  const bobs = await bob.joined("chat");
  assert.deepEqual(member((await room.next("join", ({ info }) => info.user === "bob")).info),
    { client: bob.id, user: "bob", connInfo: undefined });
  const { clients } = await room.subscription.presence();
  assert.deepEqual(Object.keys(clients).sort(), [ada.id, bob.id].sort());
  assert.deepEqual(member(clients[ada.id]), { client: ada.id, user: "ada", connInfo: { name: "Ada" } });
  assert.deepEqual(await bobs.subscription.presenceStats(), { numClients: 2, numUsers: 2 });
  bobs.subscription.unsubscribe();
  assert.equal((await room.next("leave")).info.client, bob.id);
  assert.deepEqual(await room.subscription.presenceStats(), { numClients: 1, numUsers: 1 });
  // A lost connection leaves like one that says so.
  const again = await Client.connected(t, gateway, BOB);
  await again.joined("chat");
  again.centrifuge.disconnect();
  await room.next("leave", ({ info }) => info.client === again.id);
  assert.deepEqual(room.events.of("join").filter(({ info }) => info.user === "bob").length, 2);
});

test("presence is for members, and where the config offers it", async (t) => {
  const gateway = await Gateway.start(t, { auth: AUTH, rooms: [{ match: "open", presence: true }, { match: "closed" }] });
  const client = await Client.connected(t, gateway);
  assert.equal((await refusal(client.centrifuge.presence("open"))).code, 103);
  const closed = await client.joined("closed");
  assert.equal((await refusal(closed.subscription.presence())).code, 108);
  assert.equal((await refusal(closed.subscription.presenceStats())).code, 108);
});

test("who may publish is the config's to say", async (t) => {
  const gateway = await Gateway.start(t, {
    auth: AUTH,
    rooms: [
      { match: "quiet" },
      { match: "members", publish: "members" },
      { match: "anyone", publish: "anyone" },
    ],
  });
  const client = await Client.connected(t, gateway);
  const denied = { code: 103, message: "permission denied" };
  await client.joined("quiet");
  assert.deepEqual(await refusal(client.centrifuge.publish("quiet", {})), denied);
  assert.deepEqual(await refusal(client.centrifuge.publish("members", {})), denied);
  await client.joined("members");
  await client.centrifuge.publish("members", {});
  await client.centrifuge.publish("anyone", {});
});

test("who may join is the config's to say", async (t) => {
  const gateway = await Gateway.start(t, {
    auth: AUTH,
    rooms: [{ match: "users", join: "users" }, { match: "nobody", join: "nobody" }],
  });
  const [nobody, ada] = [await Client.connected(t, gateway), await Client.connected(t, gateway, ADA)];
  for (const [client, name] of [[nobody, "users"], [nobody, "nobody"], [ada, "nobody"]]) {
    const room = client.room(name);
    room.subscription.subscribe();
    assert.equal((await room.next("unsubscribed")).code, 103);
  }
  await ada.joined("users");
});

test("a plugin's refusal of a join arrives with its reason", async (t) => {
  const gateway = await Gateway.start(t, {
    auth: AUTH,
    rooms: [{ match: "closed", plugins: ["deny"] }, { match: "open", plugins: ["allow"] }],
    plugins: [{ name: "deny", path: fixture("deny") }, { name: "allow", path: fixture("allow") }],
  });
  const client = await Client.connected(t, gateway);
  await client.joined("open");
  const room = client.room("closed");
  room.subscription.subscribe();
  const { code, reason } = await room.next("unsubscribed");
  assert.deepEqual({ code, reason }, { code: 103, reason: "no" });
});

test("a join is refused for now while its plugin fails, and the client tries again", async (t) => {
  const gateway = await Gateway.start(t, {
    auth: AUTH,
    rooms: [{ match: "chat", plugins: ["trap"] }],
    plugins: [{ name: "trap", path: fixture("authorize-traps") }],
  });
  const client = await Client.connected(t, gateway);
  const room = client.room("chat", { minResubscribeDelay: 10, maxResubscribeDelay: 20 });
  room.subscription.subscribe();
  await room.events.until(() => room.events.of("error").length >= 2, "two attempts");
  assert.equal(room.events.of("error")[0].error.code, 100);
  assert.equal(room.subscription.state, "subscribing");
});

test("a plugin's refusal of a message arrives with its code, and nobody hears the message", async (t) => {
  const gateway = await Gateway.start(t, {
    auth: AUTH,
    rooms: [
      { match: "refused", publish: "members", plugins: ["refuse"] },
      { match: "dropped", publish: "members", plugins: ["drop"] },
      { match: "failing", publish: "members", plugins: ["trap"] },
      { match: "replaced", publish: "members", plugins: ["replace"] },
    ],
    plugins: ["refuse", "drop", "trap", "replace"].map((name) => ({ name, path: fixture(name) })),
  });
  const client = await Client.connected(t, gateway);
  const room = async (name) => client.joined(name);
  const [refused, dropped, failing, replaced] =
    await Promise.all(["refused", "dropped", "failing", "replaced"].map(room));
  assert.deepEqual(await refusal(refused.publish({})), { code: 450, message: "no" });
  // A dropped message looks published to its sender.
  await dropped.publish({});
  assert.equal((await refusal(failing.publish({}))).code, 100);
  await replaced.publish({ text: "x" });
  assert.deepEqual((await replaced.next("publication")).data, { replaced: true });
  assert.equal(refused.publications.length + dropped.publications.length + failing.publications.length, 0);
  assert.equal(client.reconnects, 0);
});

test("a plugin may send a message to a user as well, wherever they are", async (t) => {
  const gateway = await Gateway.start(t, {
    server: { personal_rooms: true },
    auth: AUTH,
    rooms: [{ match: "chat", publish: "members", plugins: ["route"] }],
    plugins: [{ name: "route", path: fixture("route-to-user") }],
  });
  const [ada, bob] = [await Client.connected(t, gateway, ADA), await Client.connected(t, gateway, BOB)];
  const room = await ada.joined("chat");
  await room.publish({ text: "hi" });
  const { channel, data } = await bob.next("publication");
  assert.deepEqual({ channel, data }, { channel: "user:bob", data: { text: "hi" } });
  await room.next("publication");
});

test("without personal rooms, what is for a user comes as a message", async (t) => {
  const gateway = await Gateway.start(t, {
    auth: AUTH,
    rooms: [{ match: "chat", publish: "members", plugins: ["route"] }],
    plugins: [{ name: "route", path: fixture("route-to-user") }],
  });
  const [ada, bob] = [await Client.connected(t, gateway, ADA), await Client.connected(t, gateway, BOB)];
  const room = await ada.joined("chat");
  await room.publish({ text: "hi" });
  assert.deepEqual((await bob.next("message")).data, { text: "hi" });
});

test("routing rules of the config send a message elsewhere too, or only", async (t) => {
  const gateway = await Gateway.start(t, {
    auth: AUTH,
    rooms: [{ match: "*", publish: "members" }],
    routes: [
      { room: "orders:*", to: ["room:audit", "room:city:{data.city}"] },
      { room: "drop-box", to: ["room:audit"], keep: false },
    ],
  });
  const joined = async (name) => (await Client.connected(t, gateway)).joined(name);
  const [orders, box, audit, city] = await Promise.all(["orders:1", "drop-box", "audit", "city:rome"].map(joined));
  // Somebody whom two targets of one rule reach hears it from the first alone.
  const both = await Client.connected(t, gateway);
  const [bothAudit, bothCity] = [await both.joined("audit"), await both.joined("city:rome")];
  await orders.publish({ n: 1, city: "rome" });
  await orders.publish({ n: 2 });
  await box.publish({ n: 3 });
  const all = [orders, box, audit, city, bothAudit, bothCity];
  for (const room of [audit, bothAudit]) await room.next("publication", ({ data }) => data.n === 3);
  const numbers = (room) => room.publications.map(({ data }) => data.n);
  assert.deepEqual(all.map(numbers), [[1, 2], [], [1, 2, 3], [1], [1, 2, 3], []]);
});

test("a plugin may throw somebody out for good", async (t) => {
  const gateway = await Gateway.start(t, {
    auth: AUTH,
    rooms: [{ match: "trap", plugins: ["kick"] }],
    plugins: [{ name: "kick", path: fixture("observe-kick") }],
  });
  const client = await Client.connected(t, gateway);
  client.room("trap").subscription.subscribe();
  const { code, reason } = await client.next("disconnected");
  assert.deepEqual({ code, reason }, { code: 4500, reason: "kicked" });
});

test("limits are told as such", async (t) => {
  const gateway = await Gateway.start(t, {
    auth: AUTH,
    limits: { rooms_per_connection: 1, name_length: 20, message_size: "1KiB" },
    rooms: [{ match: "*", publish: "members" }],
  });
  const client = await Client.connected(t, gateway);
  const room = await client.joined("one");
  for (const [name, code] of [["two", 106], ["x".repeat(21), 106], ["a\u0007b", 107]]) {
    const refused = client.room(name);
    refused.subscription.subscribe();
    assert.equal((await refused.next("unsubscribed")).code, code, JSON.stringify(name));
  }
  // The publish is lost with its connection; the client says so.
  room.publish("x".repeat(2000)).catch(() => {});
  // The client's own code for a close with 1009.
  assert.deepEqual((await client.next("disconnected")).code, 3);
});

test("who sends commands too fast is told, then closed", async (t) => {
  const gateway = await Gateway.start(t, {
    auth: AUTH,
    limits: { commands_per_second: 1, commands_burst: 5 },
    rooms: [{ match: "chat", publish: "members" }],
  });
  const client = await Client.connected(t, gateway);
  const room = await client.joined("chat");
  const answers = await Promise.allSettled(Array.from({ length: 20 }, () => room.publish({})));
  const codes = answers.filter(({ status }) => status === "rejected").map(({ reason }) => reason.code);
  assert.ok(codes.includes(111), `${codes}`);
  await client.next("connecting", ({ code }) => code === 3013);
});
