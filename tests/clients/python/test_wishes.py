"""Protobuf, differences and filters, as the official Python client has them."""

import json

import pytest
from cent import AsyncClient, PublishRequest
from centrifuge import DeltaType, Filter

from support import DEADLINE, Room

KEY = "a key that nobody guesses"
CONFIG = {
    "auth": {"anonymous": True},
    "api": {"keys": [{"name": "test", "key": KEY}]},
    "rooms": [
        {"match": "delta:*", "publish": "members", "delta": True, "history": {"size": 100, "ttl": "5m"}, "recovery": True},
        {"match": "tags:*", "tags_filter": True},
        {"match": "chat:*", "publish": "members", "presence": True},
    ],
}
WIRES = pytest.mark.parametrize("use_protobuf", [False, True], ids=["json", "protobuf"])


def sent(use_protobuf, value):
    """A value as a client with that wire sends it."""
    return json.dumps(value).encode() if use_protobuf else value


def received(use_protobuf, data):
    """A value as a client with that wire has received it."""
    return json.loads(data) if use_protobuf else data


async def joined(client, name, **options):
    room = Room(client.client, name, **options)
    await room.subscription.subscribe()
    await room.subscription.ready(DEADLINE)
    return room


@WIRES
async def test_both_wires_meet_in_a_room(start, user, use_protobuf):
    gateway = await start(CONFIG)
    ada = await user(gateway, use_protobuf=use_protobuf).connected()
    bob = await user(gateway).connected()
    mine, theirs = await joined(ada, "chat:1"), await joined(bob, "chat:1")
    await mine.publish(sent(use_protobuf, {"text": "grüße"}))
    assert (await theirs.received(1))[0].data == {"text": "grüße"}
    await theirs.publish([1, None])
    assert received(use_protobuf, (await mine.received(2))[1].data) == [1, None]
    assert (await mine.subscription.presence_stats()).num_clients == 2


@WIRES
async def test_differences_make_the_same_messages(start, user, use_protobuf):
    gateway = await start(CONFIG)
    ada = await user(gateway, use_protobuf=use_protobuf).connected()
    bob = await user(gateway).connected()
    room, sender = await joined(ada, "delta:1", delta=DeltaType.FOSSIL), await joined(bob, "delta:1")
    documents = [{"n": n, "text": "ü" * n, "list": ["entry"] * 200} for n in range(10)]
    for document in documents:
        await sender.publish(document)
    heard = [received(use_protobuf, publication.data) for publication in await room.received(10)]
    assert heard == documents


@WIRES
async def test_a_filter_lets_through_what_it_names(start, user, use_protobuf):
    gateway = await start(CONFIG)
    ada = await user(gateway, use_protobuf=use_protobuf).connected()
    room = await joined(ada, "tags:1", tags_filter=Filter.all(Filter.eq("team", "red"), Filter.gte("level", "2")))
    backend = AsyncClient(f"http://127.0.0.1:{gateway.port}/api", KEY)
    for n, (team, level) in enumerate([("red", "1"), ("red", "2"), ("blue", "9"), ("red", "10")]):
        await backend.publish(PublishRequest(channel="tags:1", data=n, tags={"team": team, "level": level}))
    assert [received(use_protobuf, publication.data) for publication in await room.received(2)] == [1, 3]
