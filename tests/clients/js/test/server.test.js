// Calls, heartbeat, slow readers, and the end of a gateway.

import assert from "node:assert/strict";
import { connect } from "node:net";
import { test } from "node:test";
import WebSocket from "ws";
import { Client, refusal } from "../support/client.js";
import { Gateway, fixture } from "../support/gateway.js";
import { within } from "../support/inbox.js";
import { SECRET, token } from "../support/token.js";

const AUTH = { anonymous: true };

test("a call is answered by the plugin that knows its method", async (t) => {
  const gateway = await Gateway.start(t, { auth: AUTH, plugins: [{ name: "echo", path: fixture("echo-call") }] });
  const client = await Client.connected(t, gateway);
  for (const data of [{ a: [1, "ü"] }, "text", 7, null]) {
    assert.deepEqual((await client.centrifuge.rpc("echo", data)).data, data);
  }
  assert.deepEqual(await refusal(client.centrifuge.rpc("other", {})), { code: 104, message: "method not found" });
});

test("a failing call is refused and nothing else suffers", async (t) => {
  const gateway = await Gateway.start(t, { auth: AUTH, plugins: [{ name: "trap", path: fixture("call-traps") }] });
  const client = await Client.connected(t, gateway);
  assert.equal((await refusal(client.centrifuge.rpc("any", {}))).code, 100);
  assert.equal((await refusal(client.centrifuge.rpc("any", {}))).code, 100);
  assert.equal(client.reconnects, 0);
});

test("a message without an answer reaches the plugins", async (t) => {
  const gateway = await Gateway.start(t, {
    auth: AUTH,
    plugins: [{ name: "counter", path: fixture("counter-kv"), grants: ["kv"] }],
  });
  const client = await Client.connected(t, gateway);
  await client.centrifuge.send({ any: "thing" });
  await client.centrifuge.send({ any: "thing" });
  // Commands of a connection are carried out in order, so both were before this one.
  assert.equal((await client.centrifuge.rpc("count", null)).data, 3);
});

test("what is not offered says so", async (t) => {
  const gateway = await Gateway.start(t, { auth: AUTH, rooms: [{ match: "chat" }] });
  const client = await Client.connected(t, gateway);
  const room = await client.joined("chat");
  assert.equal((await refusal(room.subscription.history({ limit: 1 }))).code, 108);
});

test("pings and their answers keep a connection", async (t) => {
  const gateway = await Gateway.start(t, { server: { ping_interval: "1s", pong_timeout: "900ms" }, auth: AUTH });
  // The client takes the connection for lost if no ping comes in 2.5 seconds.
  const client = await Client.connected(t, gateway, { maxServerPingDelay: 1500 });
  await gateway.metricReaches("wayleave_commands_total", { kind: "pong" }, 3);
  assert.equal(client.centrifuge.state, "connected");
  assert.equal(client.reconnects, 0);
});

/** A connection by hand, which answers only what the test does. */
async function bare(t, gateway) {
  const socket = new WebSocket(gateway.websocket);
  t.after(() => socket.terminate());
  await within(new Promise((resolve) => socket.once("open", resolve)), "open");
  const closed = new Promise((resolve) => socket.once("close", (code, reason) => resolve({ code, reason: `${reason}` })));
  return { socket, closed };
}

test("who answers no ping is closed", async (t) => {
  const gateway = await Gateway.start(t, { server: { ping_interval: "1s", pong_timeout: "200ms" }, auth: AUTH });
  const { socket, closed } = await bare(t, gateway);
  socket.send('{"id":1,"connect":{}}');
  assert.deepEqual(await within(closed, "closed"), { code: 3012, reason: "no pong" });
});

test("who does not say hello is closed", async (t) => {
  const gateway = await Gateway.start(t, { server: { connect_timeout: "200ms" }, auth: AUTH });
  const { closed } = await bare(t, gateway);
  assert.deepEqual(await within(closed, "closed"), { code: 3502, reason: "stale" });
});

test("who speaks something else is closed", async (t) => {
  const gateway = await Gateway.start(t, { auth: AUTH });
  for (const [frame, code] of [["hello", 3501], ['{"id":1}', 3501], ['{"publish":{}}', 3501], [Buffer.from([1]), 3506]]) {
    const { socket, closed } = await bare(t, gateway);
    socket.send(frame);
    assert.equal((await within(closed, "closed")).code, code, `${frame}`);
  }
});

/** A frame of a client, masked with zeros, so that the payload stands as it is. */
function frame(opcode, payload) {
  return Buffer.concat([Buffer.from([0x80 | opcode, 0x80 | payload.length, 0, 0, 0, 0]), payload]);
}

test("the gateway ends the TCP connection first, as RFC 6455 has it", async (t) => {
  // So long that a gateway which waits for the client's end instead would be noticed.
  const gateway = await Gateway.start(t, { auth: AUTH, limits: { close_timeout: "60s" } });
  const socket = connect({ port: gateway.port, host: "127.0.0.1", allowHalfOpen: true });
  t.after(() => socket.destroy());
  const ended = new Promise((resolve) => socket.once("end", resolve));
  let received = Buffer.alloc(0);
  const closed = new Promise((resolve) =>
    socket.on("data", (bytes) => {
      received = Buffer.concat([received, bytes]);
      // The last thing is a close frame with 3500.
      if (received.includes(Buffer.from([0x88, 15, 3500 >> 8, 3500 & 0xff]))) resolve();
    }),
  );
  socket.write(
    "GET /connection/websocket HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
      "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
  );
  socket.write(frame(1, Buffer.from('{"id":1,"connect":{"token":"x"}}')));
  await within(closed, "a close frame");
  socket.write(frame(8, Buffer.from([3500 >> 8, 3500 & 0xff])));
  await within(ended, "the gateway ends the connection");
});

test("who reads too slowly is closed, and finds back", async (t) => {
  const gateway = await Gateway.start(t, {
    auth: AUTH,
    limits: { outbox: "128KiB", commands_per_second: 100_000, commands_burst: 100_000 },
    rooms: [{ match: "chat", publish: "members" }],
  });
  let socket;
  class Held extends WebSocket {
    constructor(...options) {
      super(...options);
      socket ??= this;
    }
  }
  const slow = await Client.connected(t, gateway, { websocket: Held });
  await slow.joined("chat");
  const fast = await Client.connected(t, gateway);
  const room = await fast.joined("chat");
  socket.pause();
  const text = "x".repeat(50_000);
  const flood = async () => {
    // The kernel's buffers take some megabytes before the outbox fills.
    for (let n = 0; ; n += 1) {
      await room.publish({ n, text });
      if (n % 20 === 19 && (await gateway.metric("wayleave_closes_total", { code: "3008" })) > 0) return n + 1;
    }
  };
  const sent = await within(flood(), "the slow one is closed");
  socket.resume();
  const lost = await slow.next("connecting", ({ code }) => code !== 0);
  assert.deepEqual({ code: lost.code, reason: lost.reason }, { code: 3008, reason: "slow" });
  await slow.next("connected", (event) => event.client !== slow.id);
  // Whoever reads hears all of it all the while.
  await room.events.until(() => room.publications.length === sent, "all of the flood");
  assert.equal(fast.reconnects, 0);
});

test("a gateway that shuts down says so, and clients find the next one", async (t) => {
  const gateway = await Gateway.start(t, {
    auth: { jwt: { hmac_secret: SECRET } },
    rooms: [{ match: "chat", publish: "members" }],
  });
  const client = await Client.connected(t, gateway, { token: token({ sub: "ada" }) });
  const room = await client.joined("chat");
  assert.equal(await gateway.stop(), 0);
  const { code, reason } = await client.next("connecting", (event) => event.code !== 0);
  assert.deepEqual({ code, reason }, { code: 3001, reason: "shutdown" });
  assert.equal(client.centrifuge.state, "connecting");
  await gateway.run();
  await client.next("connected", (event) => event.client !== client.id);
  await room.events.until(() => room.events.of("subscribed").length === 2, "it is in its room again");
  await room.publish({ n: 1 });
  await room.next("publication");
  assert.equal(client.events.of("disconnected").length, 0);
});
