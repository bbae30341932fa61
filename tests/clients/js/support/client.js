// The official client, with all its events kept in order.

import { Centrifuge } from "centrifuge";
import { Centrifuge as ProtobufCentrifuge } from "centrifuge/build/protobuf";
import { EventSource } from "eventsource";
import WebSocket from "ws";
import { Inbox } from "./inbox.js";

const CLIENT_EVENTS = [
  "connecting", "connected", "disconnected", "error", "message",
  "subscribing", "subscribed", "unsubscribed", "publication", "join", "leave",
];
const ROOM_EVENTS = ["subscribing", "subscribed", "unsubscribed", "publication", "join", "leave", "error"];

/** Events with their names, as the client emitted them. */
class Events extends Inbox {
  constructor(emitter, names) {
    super();
    for (const name of names) emitter.on(name, (context) => this.put({ event: name, ...context }));
  }

  /** The first event of that name that fits, waited for. */
  next(name, fits = () => true) {
    return this.first((item) => item.event === name && fits(item), `event ${name}`);
  }

  of(name) {
    return this.all.filter((item) => item.event === name);
  }
}

/** A room as one client sees it. */
class Room {
  constructor(subscription) {
    this.subscription = subscription;
    this.events = new Events(subscription, ROOM_EVENTS);
  }

  get publications() {
    return this.events.of("publication");
  }

  /** Resolves when the client is in; rejects with the refusal when it may not. */
  ready() {
    return this.subscription.ready(30_000);
  }

  next(name, fits) {
    return this.events.next(name, fits);
  }

  publish(data) {
    return this.subscription.publish(data);
  }
}

/** The ways in which a client can reach the gateway. */
export const WAYS = ["websocket", "protobuf", "http_stream", "protobuf http_stream", "sse"];

/** Where a client connects to that goes that way. */
function endpoint(gateway, way) {
  if (!way.includes("http_stream") && way !== "sse") return gateway.websocket;
  const transport = way === "sse" ? "sse" : "http_stream";
  return [{ transport, endpoint: `${gateway.url}/connection/${transport}` }];
}

export class Client {
  /** A client that is closed when the test `t` is over. It does not connect by itself. */
  constructor(t, gateway, { way = "websocket", ...options } = {}) {
    const Library = way.startsWith("protobuf") ? ProtobufCentrifuge : Centrifuge;
    this.centrifuge = new Library(endpoint(gateway, way), {
      websocket: WebSocket,
      eventsource: EventSource,
      emulationEndpoint: `${gateway.url}/emulation`,
      minReconnectDelay: 20,
      maxReconnectDelay: 200,
      timeout: 20_000,
      ...options,
    });
    this.events = new Events(this.centrifuge, CLIENT_EVENTS);
    t.after(() => this.centrifuge.disconnect());
  }

  /** A client that is connected. */
  static async connected(t, gateway, options) {
    const client = new Client(t, gateway, options);
    client.centrifuge.connect();
    const { client: id } = await client.next("connected");
    client.id = id;
    return client;
  }

  next(name, fits) {
    return this.events.next(name, fits);
  }

  /** How often the connection was lost. The first attempt has code 0. */
  get reconnects() {
    return this.events.of("connecting").filter(({ code }) => code !== 0).length;
  }

  room(name, options) {
    return new Room(this.centrifuge.newSubscription(name, options));
  }

  /** A room that the client is in. */
  async joined(name, options) {
    const room = this.room(name, options);
    room.subscription.subscribe();
    await room.ready();
    return room;
  }
}

/** The code of the refusal that a promise ends with. */
export async function refusal(promise) {
  try {
    await promise;
  } catch (error) {
    return { code: error.code, message: error.message };
  }
  throw new Error("it was not refused");
}
