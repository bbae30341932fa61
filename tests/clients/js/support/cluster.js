// Several gateways on one Redis, behind a load balancer without stickiness.
// Needs nothing but Node and `redis-server`.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Gateway } from "./gateway.js";
import { within } from "./inbox.js";

/** Asks again and again: neither Redis nor `/ready` tells by itself. */
async function until(condition, what) {
  const met = async () => {
    while (!(await condition())) await new Promise((resolve) => setTimeout(resolve, 20));
  };
  return within(met(), what);
}

function listening(server) {
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(0, "127.0.0.1", () => resolve(server.address().port));
  });
}

/** Whether somebody listens on that port. */
async function answers(port) {
  const socket = connect(port, "127.0.0.1");
  try {
    await once(socket, "connect");
    return true;
  } catch {
    return false;
  } finally {
    socket.destroy();
  }
}

/** The URL of a Redis that keeps nothing on disk and is gone when the test `t` is over. */
async function redis(t) {
  const folder = await mkdtemp(join(tmpdir(), "wayleave-redis-"));
  const placeholder = createServer();
  const port = await listening(placeholder);
  await new Promise((resolve) => placeholder.close(resolve));
  const options = ["--port", port, "--bind", "127.0.0.1", "--dir", folder, "--save", "", "--appendonly", "no"];
  const child = spawn("redis-server", options.map(String), { stdio: "ignore" });
  const ended = once(child, "close");
  t.after(async () => {
    child.kill("SIGKILL");
    await ended;
    await rm(folder, { recursive: true, force: true });
  });
  await until(() => answers(port), "Redis answers");
  return `redis://127.0.0.1:${port}`;
}

/** Shares connections out in turn; passes over those that are gone. */
class Balancer {
  #turn = 0;
  #open = new Set();

  static async start(t, gateways) {
    const balancer = new Balancer();
    balancer.gateways = gateways;
    const server = createServer((client) => balancer.#serve(client));
    balancer.port = await listening(server);
    balancer.websocket = `ws://127.0.0.1:${balancer.port}/connection/websocket`;
    t.after(() => {
      server.close();
      for (const socket of balancer.#open) socket.destroy();
    });
    return balancer;
  }

  #serve(client) {
    const n = this.#turn++ % this.gateways.length;
    const ports = [...this.gateways.slice(n), ...this.gateways.slice(0, n)].map(({ port }) => port);
    client.on("error", () => {});
    this.#keep(client);
    const next = () => {
      const port = ports.shift();
      if (port === undefined) return client.destroy();
      const server = connect(port, "127.0.0.1");
      server.once("error", next);
      server.once("connect", () => {
        server.off("error", next);
        server.on("error", () => client.destroy());
        this.#keep(server);
        client.pipe(server).pipe(client);
        client.once("close", () => server.destroy());
        server.once("close", () => client.destroy());
      });
    };
    next();
  }

  #keep(socket) {
    this.#open.add(socket);
    socket.once("close", () => this.#open.delete(socket));
  }
}

/** Waits until a gateway is one of its cluster. */
export function ready(gateway) {
  return until(async () => (await fetch(`${gateway.url}/ready`)).ok, "the gateway is ready");
}

/** Gateways with these names and one config on one Redis, and a balancer before them. */
export async function cluster(t, config, names) {
  const url = await redis(t);
  const gateways = [];
  for (const name of names) {
    const bus = { bus: { kind: "redis", url }, cluster: { name } };
    const gateway = await Gateway.start(t, { ...config, ...bus });
    await ready(gateway);
    gateways.push(gateway);
  }
  return { gateways, balancer: await Balancer.start(t, gateways) };
}
