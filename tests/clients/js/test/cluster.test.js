// Three gateways on one Redis, with the client's own reconnecting: what it
// makes of instances that end and are replaced.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Client } from "../support/client.js";
import { cluster, ready } from "../support/cluster.js";
import { within } from "../support/inbox.js";

const CONFIG = {
  auth: { anonymous: true },
  limits: { commands_per_second: 100_000, commands_burst: 100_000 },
  rooms: [
    { match: "kept:*", publish: "anyone", history: { size: 10_000, ttl: "5m" }, recovery: true },
    { match: "plain:*", publish: "anyone" },
  ],
};

/** Publishes numbers to a room, one each 10 ms, and goes on whatever happens. */
class Sender {
  accepted = [];
  sent = 0;
  #running = true;

  constructor(name, client, room) {
    this.name = name;
    this.ended = this.#run(client, room);
  }

  async #run(client, room) {
    while (this.#running) {
      const message = `${this.name} ${this.sent++}`;
      try {
        await client.centrifuge.publish(room, message);
        this.accepted.push(message);
      } catch {
        // It may have been taken or not: its connection ended before it was told.
        await client.centrifuge.ready(30_000);
      }
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }

  stop() {
    this.#running = false;
    return within(this.ended, "the sender ends");
  }
}

test("through a rolling restart nothing is lost or doubled, and all see one order", async (t) => {
  const { gateways, balancer } = await cluster(t, CONFIG, ["a", "b", "c"]);
  const rooms = [];
  const listeners = [];
  for (let n = 0; n < 6; n++) {
    const client = await Client.connected(t, balancer);
    listeners.push(client);
    rooms.push(await client.joined("kept:1"));
  }
  const senders = [];
  for (const name of ["ada", "bob"]) senders.push(new Sender(name, await Client.connected(t, balancer), "kept:1"));
  const flows = async (more) => {
    const [room] = rooms;
    const before = room.publications.length;
    await room.events.until(() => room.publications.length >= before + more, "it flows");
  };
  await flows(30);
  for (const gateway of gateways) {
    assert.equal(await gateway.stop(), 0);
    await gateway.run();
    await ready(gateway);
    await flows(30);
  }
  for (const sender of senders) await sender.stop();
  const last = await Client.connected(t, balancer);
  await last.centrifuge.publish("kept:1", "the end");
  for (const room of rooms) await room.next("publication", ({ data }) => data === "the end");

  const heard = rooms.map((room) => room.publications.map(({ data }) => data));
  for (const [n, messages] of heard.entries()) {
    assert.equal(new Set(messages).size, messages.length, `listener ${n} heard something twice`);
    assert.deepEqual(messages, heard[0], `listener ${n} heard another order`);
    const offsets = rooms[n].publications.map(({ offset }) => offset);
    assert.deepEqual(offsets, offsets.map((_, k) => k + 1), `listener ${n} has a hole`);
  }
  for (const { name, accepted, sent } of senders) {
    const came = new Set(heard[0]);
    assert.deepEqual(accepted.filter((message) => !came.has(message)), [], "accepted and lost");
    const numbers = heard[0].filter((it) => it.startsWith(name)).map((it) => Number(it.split(" ")[1]));
    assert.deepEqual(numbers, numbers.toSorted((a, b) => a - b), "out of the sender's order");
    assert.ok(numbers.at(-1) < sent);
  }
  const reconnects = listeners.reduce((sum, client) => sum + client.reconnects, 0);
  const subscribed = rooms.flatMap((room) => room.events.of("subscribed").slice(1));
  assert.ok(reconnects >= 6, `only ${reconnects} reconnects`);
  assert.ok(subscribed.every(({ wasRecovering, recovered }) => wasRecovering && recovered));
  const n = senders.reduce((sum, sender) => sum + sender.accepted.length, 0);
  t.diagnostic(`${n} messages to 6 listeners, ${reconnects} reconnects, 0 lost, 0 doubled`);
});

test("m17: the client's own pauses spread out those whose instance has ended", async (t) => {
  const N = 100;
  const { gateways, balancer } = await cluster(t, CONFIG, ["a", "b"]);
  const all = balancer.gateways;
  balancer.gateways = [all[0]];
  // The pauses that an application gets which sets none.
  const pauses = { minReconnectDelay: 500, maxReconnectDelay: 20_000 };
  const rooms = [];
  const clients = [];
  for (let n = 0; n < N; n++) {
    clients.push(await Client.connected(t, balancer, pauses));
    rooms.push(await clients.at(-1).joined("plain:1"));
  }
  balancer.gateways = [all[1]];
  const ended = performance.now();
  const back = clients.map(async (client) => {
    await client.events.until(() => client.events.of("connected").length === 2, "it is back");
    return performance.now() - ended;
  });
  const [code, ...times] = await Promise.all([gateways[0].stop(), ...back]);
  assert.equal(code, 0);
  const asked = clients.flatMap((client) => client.events.of("connecting").slice(1).map((event) => event.code));
  assert.ok(asked.length >= N && asked.includes(3001), `${asked.length}`);
  const most = Math.max(...times.map((from) => times.filter((at) => at >= from && at < from + 100).length));
  t.diagnostic(`${N} back after ${Math.round(Math.max(...times))} ms, at most ${most} in 100 ms`);
  assert.ok(Math.max(...times) < 30_000);
  assert.ok(most < N, "all came at once");
  for (const room of rooms) await room.events.until(() => room.events.of("subscribed").length === 2, "it is in its room");
  await clients[0].centrifuge.publish("plain:1", "all");
  for (const room of rooms) await room.next("publication", ({ data }) => data === "all");
});
