"""Plugins and rules are replaced in the middle of traffic, and every message is accounted for."""

import asyncio
import signal

from support import SECRET, fixture_text

SWAPS = 20
# Messages a second, of each sender.
RATE = 200
CONFIG = {
    "auth": {"jwt": {"hmac_secret": SECRET}},
    "limits": {"commands_per_second": 100_000, "commands_burst": 100_000},
    "rooms": [{"match": "*", "publish": "members", "stamp": True, "plugins": ["p"]}],
    "plugins": [{"name": "p", "path": "p.wat"}],
}


class Sender:
    """Publishes numbered messages at a steady rate until it is stopped."""

    def __init__(self, room):
        self.sent = 0
        self._room = room
        self._answers = []
        self._stopped = False
        self._task = asyncio.create_task(self._run())

    async def _run(self):
        loop = asyncio.get_running_loop()
        started = loop.time()
        while not self._stopped:
            # A timer may come late; the messages that it owes are sent then.
            while self.sent < (loop.time() - started) * RATE:
                self._answers.append(asyncio.create_task(self._room.publish({"n": self.sent})))
                self.sent += 1
            await asyncio.sleep(0.004)

    async def stop(self):
        """Returns when all that was sent is acknowledged; raises if one was refused."""
        self._stopped = True
        await self._task
        await asyncio.gather(*self._answers)


async def test_reloads_under_load_lose_double_and_reorder_nothing(start, user):
    text = fixture_text("pass")
    gateway = await start(CONFIG, {"p.wat": text})
    users = {name: await user(gateway, name).connected() for name in ("ada", "bob", "listener")}
    rooms = {name: await somebody.joined("chat") for name, somebody in users.items()}
    senders = {name: Sender(rooms[name]) for name in ("ada", "bob")}
    for generation in range(2, SWAPS + 2):
        if generation == SWAPS // 2:
            # In the middle of it all, one that is broken: nothing changes.
            gateway.write("p.wat", "(component")
            await gateway.status(lambda status: status["error"])
        # The same code with another content, so the same answers from another plugin.
        gateway.write("p.wat", f"{text}\n;; {generation}\n")
        # The next one comes only when this one has answered.
        await rooms["listener"].next("publication", lambda context: context.pub.tags["generation"] == str(generation))
    for sender in senders.values():
        await sender.stop()
    total = sum(sender.sent for sender in senders.values())
    plugins = {}
    for room in rooms.values():
        publications = await room.received(total)
        assert len(publications) == total
        for name, sender in senders.items():
            own = [publication for publication in publications if publication.info.user == name]
            assert [publication.data["n"] for publication in own] == list(range(sender.sent))
            generations = [int(publication.tags["generation"]) for publication in own]
            assert generations == sorted(generations)
        for publication in publications:
            # One generation has one set of plugins, whoever looks.
            tags = publication.tags
            assert plugins.setdefault(tags["generation"], tags["plugins"]) == tags["plugins"]
    assert len(plugins) == SWAPS + 1
    assert {name: somebody.reconnects for name, somebody in users.items()} == dict.fromkeys(users, 0)


async def test_a_routing_rule_takes_effect_on_open_connections(start, user):
    gateway = await start(CONFIG, {"p.wat": fixture_text("pass")})
    ada = await user(gateway, "ada").connected()
    bob = await user(gateway, "bob").connected()
    orders, audit = await ada.joined("orders"), await bob.joined("audit")
    await orders.publish({"n": 1})
    gateway.configure({**CONFIG, "routes": [{"room": "orders", "to": ["room:audit"]}]})
    await gateway.status(lambda status: status["generation"] == 2)
    await orders.publish({"n": 2})
    await audit.received(1)
    gateway.configure(CONFIG)
    gateway.signal(signal.SIGHUP)
    await gateway.status(lambda status: status["generation"] == 3)
    await orders.publish({"n": 3})
    await audit.publish({"n": 4})
    publications = await audit.received(2)
    assert [publication.data["n"] for publication in publications] == [2, 4]
    assert (ada.reconnects, bob.reconnects) == (0, 0)
