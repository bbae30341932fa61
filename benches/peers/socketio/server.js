// One Socket.IO server of several that share a Redis, as its documentation sets
// one up: node server.js PORT REDIS_PORT ADAPTER, "classic" or "sharded".

import { once } from "node:events";
import { createServer } from "node:http";

import { createAdapter, createShardedAdapter } from "@socket.io/redis-adapter";
import { Redis } from "ioredis";
import { Server } from "socket.io";

const [port, redisPort, kind] = process.argv.slice(2);
const publisher = new Redis(Number(redisPort), "127.0.0.1");
const subscriber = publisher.duplicate();
// ioredis cannot check a connection that the sharded adapter already subscribes.
await Promise.all([once(publisher, "ready"), once(subscriber, "ready")]);
const open = kind === "sharded" ? createShardedAdapter : createAdapter;

const http = createServer();
const io = new Server(http, {
  adapter: open(publisher, subscriber),
  transports: ["websocket"],
  serveClient: false,
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
