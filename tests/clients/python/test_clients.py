"""The gateway as the official Python client sees it."""

import asyncio

import pytest
from centrifuge import ReplyError

from support import DEADLINE, SECRET, Room, fixture, seconds, token

JWT = {"jwt": {"hmac_secret": SECRET}}
AUTH = {"anonymous": True, **JWT}


async def refusal(awaitable):
    """The code and reason that something is refused with."""
    with pytest.raises(ReplyError) as refused:
        await awaitable
    return refused.value.code, refused.value.message


async def test_anonymous_and_known_users_meet(start, user):
    gateway = await start({"auth": AUTH, "rooms": [{"match": "chat:*", "publish": "members", "presence": True}]})
    nobody = await user(gateway).connected()
    ada = await user(gateway, "ada", {"name": "Ada"}).connected()
    heard = [await nobody.joined("chat:1"), await ada.joined("chat:1")]
    data = {"text": "grüße, 世界 \u2028 \"\\", "list": [1, 2.5, None, True]}
    await heard[1].publish(data)
    for room in heard:
        (publication,) = await room.received(1)
        assert publication.data == data
        info = publication.info
        assert (info.client, info.user, info.conn_info) == (ada.id, "ada", {"name": "Ada"})
    clients = (await heard[0].subscription.presence()).clients
    assert {key: info.user for key, info in clients.items()} == {nobody.id: "", ada.id: "ada"}
    stats = await heard[0].subscription.presence_stats()
    assert stats.num_clients == 2


async def test_without_a_token_one_is_refused_where_the_config_says_so(start, user):
    gateway = await start({"auth": JWT})
    nobody = user(gateway)
    await nobody.client.connect()
    ended = await nobody.next("disconnected")
    assert (ended.code, ended.reason) == (101, "unauthorized")


async def test_a_wrong_token_ends_the_connection_for_good(start, user):
    gateway = await start({"auth": AUTH})
    for wrong in ("garbage", token({"sub": "ada"}, "x" * 40)):
        eve = user(gateway, token=wrong)
        await eve.client.connect()
        ended = await eve.next("disconnected")
        assert (ended.code, ended.reason) == (3500, "invalid token")
        assert eve.reconnects == 0


async def test_an_expired_token_makes_the_client_fetch_another(start, user):
    gateway = await start({"auth": JWT})
    fetched = []

    async def get_token():
        fetched.append(token({"sub": "ada", "exp": seconds(600)}))
        return fetched[-1]

    ada = user(gateway, token=token({"sub": "ada", "exp": seconds(-60)}), get_token=get_token)
    await ada.connected()
    assert len(fetched) == 1


async def test_a_connection_goes_on_with_the_token_that_is_fetched_when_one_ends(start, user):
    gateway = await start({"auth": {**JWT, "refresh_grace": "1s"}, "rooms": [{"match": "chat", "publish": "members"}]})
    fetched = []

    async def get_token():
        # Refreshed again, until nothing ends any more.
        fetched.append(token({"sub": "ada", "exp": seconds(600 if fetched else 2)}))
        return fetched[-1]

    ada = user(gateway, token=token({"sub": "ada", "exp": seconds(2)}), get_token=get_token)
    await ada.connected()
    room = await ada.joined("chat")

    # A user's clock: nothing else tells when both have been used.
    bob = user(gateway, token=token({"sub": "bob", "exp": seconds(5)}))
    await bob.connected()
    await bob.next("disconnected")
    await room.publish({"still": "here"})
    await room.received(1)
    assert (len(fetched), len(ada.of("connected")), ada.reconnects) == (2, 1, 0)


async def test_a_room_that_needs_a_token_goes_on_with_the_one_that_is_fetched(start, user):
    gateway = await start({
        "auth": {**JWT, "refresh_grace": "1s"},
        "rooms": [{"match": "private:*", "join": "token", "publish": "members"}],
    })
    ada = await user(gateway, "ada").connected()
    fetched = []

    async def get_token(_):
        claims = {"sub": "ada", "channel": "private:1", "exp": seconds(600 if len(fetched) > 1 else 2)}
        fetched.append(token(claims))
        return fetched[-1]

    room = Room(ada.client, "private:1", get_token=get_token)
    await room.subscription.subscribe()
    await room.subscription.ready(DEADLINE)
    bob = user(gateway, token=token({"sub": "bob", "exp": seconds(6)}))
    await bob.connected()
    await bob.next("disconnected")
    await room.publish({"still": "here"})
    await room.received(1)
    assert (len(fetched), len(room.of("subscribed")), room.of("unsubscribed")) == (3, 1, [])
    other = await ada.room("private:2")
    assert (await other.next("unsubscribed")).code == 103


async def test_a_connection_without_another_token_in_time_ends_and_comes_back(start, user):
    gateway = await start({"auth": {**JWT, "refresh_grace": "0s"}})
    fetched = []

    async def get_token():
        # The first one is too late.
        if not fetched:
            fetched.append(None)
            await asyncio.sleep(4)
        fetched.append(token({"sub": "ada", "exp": seconds(600)}))
        return fetched[-1]

    # Two seconds: of one, hardly anything may be left when it arrives.
    ada = user(gateway, token=token({"sub": "ada", "exp": seconds(2)}), get_token=get_token)
    await ada.connected()
    await ada.next("connecting", lambda context: context.code == 3005)
    # The client tells of the connect last of all.
    await ada.events.until(lambda all: fetched and all[-1][0] == "connected", "it is back with another token")
    # Not again and again with the old one, in the second in which it ends.
    assert (ada.of("connecting")[-1].code, len(ada.of("connected"))) == (3005, 2)


async def test_the_server_joins_rooms_of_the_token_and_the_users_own(start, user):
    gateway = await start({
        "server": {"personal_rooms": True},
        "auth": JWT,
        "rooms": [{"match": "news", "join": "nobody"}, {"match": "orders", "publish": "anyone"}],
        "routes": [{"room": "orders", "to": ["user:{data.customer}", "room:news"]}],
    })
    ada = await user(gateway, "ada").connected()
    devices = [await user(gateway, "bob").connected() for _ in range(2)]
    reader = await user(gateway, token=token({"sub": "eve", "channels": ["news"]})).connected()
    assert {context.channel for context in reader.of("subscribed")} == {"news", "user:eve"}
    await ada.client.publish("orders", {"customer": "bob"})
    for device in devices:
        told = await device.next("publication")
        assert (told.channel, told.pub.data, told.pub.info.user) == ("user:bob", {"customer": "bob"}, "ada")
    assert (await reader.next("publication")).channel == "news"
    assert ada.of("publication") == []


async def test_joins_and_leaves_are_told(start, user):
    gateway = await start({"auth": AUTH, "rooms": [{"match": "chat", "presence": True, "join_leave": True}]})
    ada = await user(gateway, "ada").connected()
    room = await ada.joined("chat")
    bob = await user(gateway, "bob").connected()
    bobs = await bob.joined("chat")
    joined = await room.next("join", lambda context: context.info.user == "bob")
    assert joined.info.client == bob.id
    await bobs.subscription.unsubscribe()
    assert (await room.next("leave")).info.client == bob.id
    await bobs.subscription.subscribe()
    await bobs.subscription.ready()
    await bob.client.disconnect()
    await room.events.until(lambda _: len(room.of("leave")) == 2, "a lost connection leaves, too")


async def test_refusals_have_their_codes(start, user):
    names = ["refuse", "deny", "trap"]
    gateway = await start({
        "auth": AUTH,
        "rooms": [
            {"match": "refused", "publish": "members", "plugins": ["refuse"]},
            {"match": "denied", "plugins": ["deny"]},
            {"match": "failing", "publish": "members", "plugins": ["trap"]},
            {"match": "quiet"},
        ],
        "plugins": [{"name": name, "path": fixture(name)} for name in names],
    })
    ada = await user(gateway, "ada").connected()
    refused, failing, quiet = [await ada.joined(name) for name in ("refused", "failing", "quiet")]
    assert await refusal(refused.publish({})) == (450, "no")
    assert (await refusal(failing.publish({})))[0] == 100
    assert await refusal(quiet.publish({})) == (103, "permission denied")
    assert (await refusal(quiet.subscription.presence()))[0] == 108
    assert (await refusal(quiet.subscription.history(1)))[0] == 108
    for name, code, reason in (("denied", 103, "no"), ("nowhere", 102, "unknown channel")):
        room = await ada.room(name)
        out = await room.next("unsubscribed")
        assert (out.code, out.reason) == (code, reason)
    assert ada.reconnects == 0


async def test_calls_are_answered(start, user):
    gateway = await start({"auth": AUTH, "plugins": [{"name": "echo", "path": fixture("echo-call")}]})
    ada = await user(gateway, "ada").connected()
    for data in ({"a": [1, "ü"]}, "text", 7, None):
        assert (await ada.client.rpc("echo", data)).data == data
    assert await refusal(ada.client.rpc("other", {})) == (104, "method not found")


async def test_null_is_json_too(start, user):
    gateway = await start({"auth": AUTH, "rooms": [{"match": "chat", "publish": "members"}]})
    ada = await user(gateway, "ada").connected()
    room = await ada.joined("chat")
    await room.publish(None)
    (publication,) = await room.received(1)
    assert publication.data is None
    assert ada.reconnects == 0


async def test_pings_and_their_answers_keep_a_connection(start, user):
    gateway = await start({
        "server": {"ping_interval": "1s", "pong_timeout": "900ms"},
        "auth": {**JWT, "anonymous": True},
        "rooms": [{"match": "chat", "publish": "members"}],
    })
    # The client takes the connection for lost if no ping comes in 2.5 seconds.
    ada = user(gateway, "ada", max_server_ping_delay=1.5)
    pings = asyncio.Semaphore(0)
    handle_ping = ada.client._handle_ping

    async def counted():
        await handle_ping()
        pings.release()

    ada.client._handle_ping = counted
    await ada.connected()
    async with asyncio.timeout(30):
        for _ in range(3):
            await pings.acquire()
    room = await ada.joined("chat")
    await room.publish({})
    await room.received(1)
    assert ada.reconnects == 0


async def test_a_gateway_that_shuts_down_says_so_and_clients_find_the_next_one(start, user):
    gateway = await start({"auth": AUTH, "rooms": [{"match": "chat", "publish": "members"}]})
    ada = await user(gateway, "ada").connected()
    room = await ada.joined("chat")
    assert await gateway.stop() == 0
    lost = await ada.next("connecting", lambda context: context.code != 0)
    assert (lost.code, lost.reason) == (3001, "shutdown")
    await gateway.run()
    await ada.next("connected", lambda context: context.client != ada.id)
    await room.events.until(lambda _: len(room.of("subscribed")) == 2, "it is in its room again")
    await room.publish({"n": 1})
    await room.received(1)
    assert ada.of("disconnected") == []
