// Who may connect, and as whom.

import assert from "node:assert/strict";
import { test } from "node:test";
import WebSocket from "ws";
import { Client } from "../support/client.js";
import { Gateway, fixture } from "../support/gateway.js";
import { SECRET, seconds, token } from "../support/token.js";

const JWT = { jwt: { hmac_secret: SECRET } };
const ROOMS = [{ match: "chat:*", presence: true, publish: "members" }];

test("without a token one is let in as nobody, where the config allows it", async (t) => {
  const gateway = await Gateway.start(t, { auth: { anonymous: true }, rooms: ROOMS });
  const client = await Client.connected(t, gateway);
  const room = await client.joined("chat:1");
  const { clients } = await room.subscription.presence();
  assert.deepEqual(clients, { [client.id]: { client: client.id, user: "" } });
});

test("without a token one is refused otherwise, for good", async (t) => {
  const gateway = await Gateway.start(t, { auth: JWT });
  const client = new Client(t, gateway);
  client.centrifuge.connect();
  const { code, reason } = await client.next("disconnected");
  assert.deepEqual({ code, reason }, { code: 101, reason: "unauthorized" });
});

test("a token says who one is", async (t) => {
  const gateway = await Gateway.start(t, { auth: JWT, rooms: ROOMS });
  const claims = { sub: "ada", exp: seconds(600), info: { name: "Ada" } };
  const client = await Client.connected(t, gateway, { token: token(claims) });
  const room = await client.joined("chat:1");
  const { clients } = await room.subscription.presence();
  assert.deepEqual(Object.keys(clients), [client.id]);
  const { user, connInfo } = clients[client.id];
  assert.deepEqual({ user, connInfo }, { user: "ada", connInfo: { name: "Ada" } });
});

for (const [what, wrong] of [
  ["another key", token({ sub: "ada" }, "x".repeat(40))],
  ["another algorithm in its head", token({ sub: "ada" }, SECRET, "none")],
  ["nothing like a token", "garbage"],
]) {
  test(`a token with ${what} ends the connection for good`, async (t) => {
    const gateway = await Gateway.start(t, { auth: { ...JWT, anonymous: true } });
    const client = new Client(t, gateway, { token: wrong });
    client.centrifuge.connect();
    const { code, reason } = await client.next("disconnected");
    assert.deepEqual({ code, reason }, { code: 3500, reason: "invalid token" });
    assert.equal(client.reconnects, 0);
  });
}

test("a token that nobody can check does not pass for anonymous", async (t) => {
  const gateway = await Gateway.start(t, { auth: { anonymous: true } });
  const client = new Client(t, gateway, { token: token({ sub: "ada" }) });
  client.centrifuge.connect();
  assert.equal((await client.next("disconnected")).code, 3500);
});

test("an expired token makes the client fetch another and connect with it", async (t) => {
  const gateway = await Gateway.start(t, { auth: JWT });
  let fetched = 0;
  const client = await Client.connected(t, gateway, {
    token: token({ sub: "ada", exp: seconds(-60) }),
    getToken: async () => {
      fetched += 1;
      return token({ sub: "ada", exp: seconds(600) });
    },
  });
  assert.equal(fetched, 1);
  assert.equal(client.centrifuge.state, "connected");
});

test("a connection goes on with the token that the client fetches when one ends", async (t) => {
  const gateway = await Gateway.start(t, { auth: JWT, rooms: ROOMS });
  let fetched = 0;
  const client = await Client.connected(t, gateway, {
    token: token({ sub: "ada", exp: seconds(2) }),
    getToken: async () => {
      fetched += 1;
      // Refreshed again and again, until nothing ends any more.
      return token({ sub: "ada", exp: seconds(fetched < 3 ? 2 : 600) });
    },
  });
  const room = await client.joined("chat:1");
  await gateway.metricReaches("wayleave_commands_total", { kind: "refresh" }, 3);
  await room.publish({ still: "here" });
  await room.next("publication");
  assert.deepEqual({ fetched, reconnects: client.reconnects }, { fetched: 3, reconnects: 0 });
});

test("a room that needs a token goes on with the one that the client fetches", async (t) => {
  const gateway = await Gateway.start(t, {
    auth: { ...JWT, refresh_grace: "1s" },
    rooms: [{ match: "private:*", join: "token", publish: "members" }],
  });
  const client = await Client.connected(t, gateway, { token: token({ sub: "ada" }) });
  const pass = (channel, claims) => token({ sub: "ada", channel, ...claims });
  let fetched = 0;
  const room = await client.joined("private:1", {
    getToken: async ({ channel }) => {
      fetched += 1;
      return pass(channel, { exp: seconds(fetched < 3 ? 2 : 600), info: { seat: 7 } });
    },
  });
  await gateway.metricReaches("wayleave_commands_total", { kind: "sub_refresh" }, 2);
  await room.publish({ still: "here" });
  const { info } = await room.next("publication");
  assert.deepEqual(info.chanInfo, { seat: 7 });
  assert.deepEqual({ fetched, events: room.events.of("subscribed").length }, { fetched: 3, events: 1 });
  // Whose token is for elsewhere is not let in.
  const other = client.room("private:2", { token: pass("private:1") });
  other.subscription.subscribe();
  assert.equal((await other.next("unsubscribed")).code, 103);
});

test("a subscription whose token was not renewed in time is made anew with another", async (t) => {
  const gateway = await Gateway.start(t, {
    auth: { ...JWT, refresh_grace: "0s" },
    rooms: [{ match: "private:*", join: "token" }],
  });
  const client = await Client.connected(t, gateway, { token: token({ sub: "ada" }) });
  let fetched = 0;
  const room = await client.joined("private:1", {
    getToken: async () => {
      fetched += 1;
      // The second one is too late.
      if (fetched === 2) await new Promise((resolve) => setTimeout(resolve, 4000));
      return token({ sub: "ada", channel: "private:1", exp: seconds(fetched === 1 ? 2 : 600) });
    },
  });
  await room.next("subscribing", ({ code }) => code === 2501);
  await room.events.until(() => room.events.of("subscribed").length === 2, "it is in again");
});

test("a connection that sends no other token in time ends, and the client comes back", async (t) => {
  const gateway = await Gateway.start(t, { auth: { ...JWT, refresh_grace: "0s" } });
  let fetched = 0;
  const client = await Client.connected(t, gateway, {
    // Two seconds: of one, hardly anything may be left when it arrives.
    token: token({ sub: "ada", exp: seconds(2) }),
    getToken: async () => {
      fetched += 1;
      // The first one is too late.
      if (fetched === 1) await new Promise((resolve) => setTimeout(resolve, 4000));
      return token({ sub: "ada", exp: seconds(600) });
    },
  });
  await client.next("connecting", ({ code }) => code === 3005);
  await client.events.until(() => fetched > 0 && client.centrifuge.state === "connected", "it is back with another token");
  // Not again and again with the old one, in the second in which it ends.
  assert.equal(client.reconnects, 1);
});

test("the token's channels are joined from the start, by the server", async (t) => {
  const gateway = await Gateway.start(t, {
    auth: JWT,
    rooms: [{ match: "news", publish: "members", join: "nobody" }],
  });
  const client = await Client.connected(t, gateway, { token: token({ sub: "ada", channels: ["news"] }) });
  assert.equal((await client.next("subscribed")).channel, "news");
  await client.centrifuge.publish("news", { text: "hello" });
  const { channel, data, info } = await client.next("publication");
  assert.deepEqual({ channel, data }, { channel: "news", data: { text: "hello" } });
  assert.deepEqual(info, { client: client.id, user: "ada" });
});

test("a user's own room is joined on every device", async (t) => {
  const gateway = await Gateway.start(t, {
    server: { personal_rooms: true },
    auth: JWT,
    rooms: [{ match: "*", publish: "anyone" }],
    routes: [{ room: "orders", to: ["user:{data.customer}"] }],
  });
  const bob = { token: token({ sub: "bob" }) };
  const ada = await Client.connected(t, gateway, { token: token({ sub: "ada" }) });
  const phone = await Client.connected(t, gateway, bob);
  const laptop = await Client.connected(t, gateway, bob);
  await ada.centrifuge.publish("orders", { customer: "bob", item: 7 });
  for (const device of [phone, laptop]) {
    assert.equal((await device.next("subscribed")).channel, "user:bob");
    const { channel, data, info } = await device.next("publication");
    assert.deepEqual({ channel, data }, { channel: "user:bob", data: { customer: "bob", item: 7 } });
    assert.equal(info.user, "ada");
  }
  assert.equal(ada.events.of("publication").length, 0);
});

test("nobody joins or speaks in the own room of another", async (t) => {
  const gateway = await Gateway.start(t, {
    server: { personal_rooms: true },
    auth: JWT,
    rooms: [{ match: "*", publish: "anyone" }],
  });
  const ada = await Client.connected(t, gateway, { token: token({ sub: "ada" }) });
  await assert.rejects(ada.centrifuge.publish("user:bob", { text: "psst" }), { code: 103 });
  const room = ada.room("user:bob");
  room.subscription.subscribe();
  assert.equal((await room.next("unsubscribed")).code, 103);
});

test("a plugin may decide who somebody is, or refuse", async (t) => {
  const gateway = await Gateway.start(t, {
    auth: { plugins: ["who"] },
    rooms: ROOMS,
    plugins: [{ name: "who", path: fixture("authenticate-user") }],
  });
  const client = await Client.connected(t, gateway, { token: "grace" });
  const room = await client.joined("chat:1");
  const { clients } = await room.subscription.presence();
  assert.equal(clients[client.id].user, "grace");
  const nobody = new Client(t, gateway);
  nobody.centrifuge.connect();
  const { code, reason } = await nobody.next("disconnected");
  assert.ok(code === 103 || (code >= 400 && code < 2000), `${code} ${reason}`);
});

test("a failing authentication lets nobody in, and the client tries again later", async (t) => {
  const gateway = await Gateway.start(t, {
    auth: { anonymous: true, plugins: ["who"] },
    plugins: [{ name: "who", path: fixture("authenticate-traps") }],
  });
  const client = new Client(t, gateway);
  client.centrifuge.connect();
  const { error } = await client.next("error");
  assert.equal(error.code, 100);
  assert.equal(client.centrifuge.state, "connecting");
});

test("two devices of a user hear the same", async (t) => {
  const gateway = await Gateway.start(t, { auth: JWT, rooms: ROOMS });
  const options = { token: token({ sub: "ada" }) };
  const devices = [await Client.connected(t, gateway, options), await Client.connected(t, gateway, options)];
  const rooms = [await devices[0].joined("chat:1"), await devices[1].joined("chat:1")];
  await rooms[0].publish({ n: 1 });
  await rooms[1].publish({ n: 2 });
  for (const room of rooms) {
    const all = await room.events.until(() => room.publications.length >= 2 && room.publications);
    assert.deepEqual(all.map(({ data, info }) => [data.n, info.client]), [[1, devices[0].id], [2, devices[1].id]]);
  }
  const { numClients, numUsers } = await rooms[0].subscription.presenceStats();
  assert.deepEqual({ numClients, numUsers }, { numClients: 2, numUsers: 1 });
});

test("a user has only so many connections", async (t) => {
  const gateway = await Gateway.start(t, { auth: JWT, limits: { connections_per_user: 1 } });
  const options = { token: token({ sub: "ada" }) };
  await Client.connected(t, gateway, options);
  const second = new Client(t, gateway, options);
  second.centrifuge.connect();
  assert.equal((await second.next("disconnected")).code, 3504);
});

test("a page of elsewhere may not connect", async (t) => {
  const gateway = await Gateway.start(t, { auth: { anonymous: true } });
  const status = await new Promise((resolve, reject) => {
    const socket = new WebSocket(gateway.websocket, { origin: "https://elsewhere.example" });
    socket.on("unexpected-response", (request, response) => {
      request.destroy();
      resolve(response.statusCode);
    });
    socket.on("open", () => reject(new Error("it was let in")));
    socket.on("error", () => {});
  });
  assert.equal(status, 403);
});
