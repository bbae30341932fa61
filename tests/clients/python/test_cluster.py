"""Three gateways on one Redis, as the official Python client sees them through a rolling restart."""

import asyncio
import contextlib
import itertools
import socket
import tempfile

import pytest

from support import DEADLINE, User

CONFIG = {
    "auth": {"anonymous": True},
    "limits": {"commands_per_second": 100_000, "commands_burst": 100_000},
    "rooms": [{"match": "kept:*", "publish": "anyone", "history": {"size": 10_000, "ttl": "5m"}, "recovery": True}],
}


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


async def until(condition, what):
    """Asks again and again: neither Redis nor `/ready` tells by itself."""
    try:
        async with asyncio.timeout(DEADLINE):
            while not await condition():
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"not within {DEADLINE} s: {what}") from None


@pytest.fixture
async def redis():
    """The URL of a Redis that keeps nothing on disk."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", "", "--appendonly", "no"]
        output = asyncio.subprocess.DEVNULL
        child = await asyncio.create_subprocess_exec("redis-server", *options, stdout=output, stderr=output)

        async def answers():
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return True

        await until(answers, "Redis answers")
        yield f"redis://127.0.0.1:{port}"
        child.kill()
        await child.wait()


async def is_ready(gateway):
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(b"GET /ready HTTP/1.0\r\nHost: localhost\r\n\r\n")
    line = await reader.readline()
    writer.close()
    return b" 200 " in line


class Balancer:
    """Shares connections out in turn; passes over those that are gone."""

    def __init__(self, gateways):
        self.gateways = gateways
        self.turns = itertools.count()

    async def start(self):
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self.server.sockets[0].getsockname()[1]
        self.websocket = f"ws://127.0.0.1:{port}/connection/websocket"

    async def _serve(self, reader, writer):
        n = next(self.turns) % len(self.gateways)
        for gateway in self.gateways[n:] + self.gateways[:n]:
            with contextlib.suppress(OSError):
                server = await asyncio.open_connection("127.0.0.1", gateway.port)
                await asyncio.gather(self._pipe(reader, server[1]), self._pipe(server[0], writer))
                return
        writer.close()

    async def _pipe(self, reader, writer):
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()


class Sender:
    """Publishes numbers to a room, one each 10 ms, and goes on whatever happens."""

    def __init__(self, name, user):
        self.name, self.user, self.accepted, self.sent, self.running = name, user, [], 0, True
        self.ended = asyncio.create_task(self._run())

    async def _run(self):
        while self.running:
            message = f"{self.name} {self.sent}"
            self.sent += 1
            try:
                await self.user.client.publish("kept:1", message)
                self.accepted.append(message)
            except Exception:
                # It may have been taken or not: its connection ended before it was told.
                await self.user.client.ready(DEADLINE)
            await asyncio.sleep(0.01)

    async def stop(self):
        self.running = False
        await asyncio.wait_for(self.ended, DEADLINE)


async def test_f12_through_a_rolling_restart_nothing_is_lost_or_doubled(start, redis):
    gateways = []
    for name in "abc":
        gateways.append(await start({**CONFIG, "bus": {"kind": "redis", "url": redis}, "cluster": {"name": name}}))
    for gateway in gateways:
        await until(lambda gateway=gateway: is_ready(gateway), "the gateway is ready")
    balancer = Balancer(gateways)
    await balancer.start()
    listeners = [await User(balancer).connected() for _ in range(6)]
    rooms = [await listener.joined("kept:1") for listener in listeners]
    senders = [Sender(name, await User(balancer).connected()) for name in ("ada", "bob")]

    async def flows(more):
        await rooms[0].received(len(rooms[0].publications) + more)

    await flows(30)
    for gateway in gateways:
        assert await gateway.stop() == 0
        await gateway.run()
        await until(lambda gateway=gateway: is_ready(gateway), "the gateway is ready")
        await flows(30)
    for sender in senders:
        await sender.stop()
    await senders[0].user.client.publish("kept:1", "the end")
    for room in rooms:
        await room.next("publication", lambda context: context.pub.data == "the end")

    heard = [[publication.data for publication in room.publications] for room in rooms]
    for messages, room in zip(heard, rooms):
        assert messages == heard[0], "another order, or a hole"
        assert len(set(messages)) == len(messages), "something came twice"
        offsets = [publication.offset for publication in room.publications]
        assert offsets == list(range(1, len(offsets) + 1))
    for sender in senders:
        assert set(sender.accepted) <= set(heard[0]), "accepted and lost"
        numbers = [int(message.split()[1]) for message in heard[0] if message.startswith(sender.name)]
        assert numbers == sorted(numbers), "out of the sender's order"
    assert sum(listener.reconnects for listener in listeners) >= 6
    again = [context for room in rooms for context in room.of("subscribed")[1:]]
    assert again and all(context.was_recovering and context.recovered for context in again)
    for each in listeners + [sender.user for sender in senders]:
        await each.client.disconnect()
    balancer.server.close()
