// One Socket.IO server, alone or of several that share a Redis, as its documentation
// sets one up: node server.js PORT REDIS_PORT ADAPTER, where ADAPTER is "none",
// "classic", "sharded" or "streams". With "none" there is no Redis.

import { once } from "node:events";
import { createServer } from "node:http";

import { createAdapter, createShardedAdapter } from "@socket.io/redis-adapter";
import { createAdapter as createStreamsAdapter } from "@socket.io/redis-streams-adapter";
import { Redis } from "ioredis";
import { Server } from "socket.io";

const [port, redisPort, kind] = process.argv.slice(2);

async function connect() {
  const client = new Redis(Number(redisPort), "127.0.0.1");
  // ioredis cannot check a connection that the sharded adapter already subscribes.
  await once(client, "ready");
  return client;
}

// In memory if it is undefined.
async function adapter() {
  switch (kind) {
    case "none":
      return undefined;
    case "classic":
      return createAdapter(await connect(), await connect());
    case "sharded":
      return createShardedAdapter(await connect(), await connect());
    case "streams":
      // It opens its other connections itself.
      return createStreamsAdapter(await connect());
    default:
      throw new Error(`no adapter is called ${kind}`);
  }
}

const http = createServer();
const io = new Server(http, {
  adapter: await adapter(),
  transports: ["websocket"],
  serveClient: false,
});

// As its page on memory says: the first request is not kept.
io.engine.on("connection", (socket) => {
  socket.request = null;
});

io.on("connection", (socket) => {
  const { user } = socket.handshake.auth;
  if (user) socket.join(`user:${user}`);
  socket.on("join", async (room, done) => {
    await socket.join(room);
    done();
  });
  socket.on("pub", (room, payload) => io.to(room).emit("m", payload));
  socket.on("user", (user, payload) => io.to(`user:${user}`).emit("m", payload));
});

http.listen(Number(port), "127.0.0.1");

// The bench holds the other end: no server outlives it.
process.stdin.on("end", () => process.exit()).resume();
