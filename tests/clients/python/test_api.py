"""The server API by the client that is made for Centrifugo's: only the address is another."""

import asyncio
import base64

import cent
import pytest
import requests
from cent import (
    AsyncClient,
    BatchRequest,
    BoolValue,
    BroadcastRequest,
    CentApiResponseError,
    CentTransportError,
    CentUnauthorizedError,
    ChannelOptionsOverride,
    ChannelsRequest,
    Client,
    Disconnect,
    DisconnectRequest,
    HistoryRemoveRequest,
    HistoryRequest,
    InfoRequest,
    PresenceRequest,
    PresenceStatsRequest,
    PublishRequest,
    RefreshRequest,
    StreamPosition,
    SubscribeRequest,
    UnsubscribeRequest,
)

from support import DEADLINE, SECRET

KEY = "a key of the tests"
CONFIG = {
    "auth": {"jwt": {"hmac_secret": SECRET}},
    "api": {"keys": [{"name": "tests", "key": KEY}]},
    "rooms": [
        {"match": "kept:*", "publish": "members", "presence": True, "history": {"size": 10, "ttl": "1m"}},
        {"match": "live:*", "presence": True},
    ],
}


@pytest.fixture
async def api(start):
    gateway = await start(CONFIG)
    client = AsyncClient(url(gateway), KEY, timeout=DEADLINE)
    client.gateway = gateway
    yield client
    await client.close()


def url(gateway):
    return f"http://127.0.0.1:{gateway.port}/api"


async def test_a_backend_publishes_and_reads_what_was_kept(api, user):
    ada = await user(api.gateway, "ada").connected()
    kept, live = await ada.joined("kept:1"), await ada.joined("live:1")
    first = await api.publish(PublishRequest(channel="kept:1", data={"n": 1}, tags={"k": "v"}, idempotency_key="one"))
    again = await api.publish(PublishRequest(channel="kept:1", data={"n": 1}, idempotency_key="one"))
    assert (first.offset, first.epoch) == (again.offset, again.epoch) == (1, first.epoch) != (0, "")
    await api.publish(PublishRequest(channel="kept:1", data={"n": 2}, skip_history=True))
    answer = await api.broadcast(BroadcastRequest(channels=["kept:1", "live:1", "nowhere"], data={"n": 3}))
    assert [response.error and response.error.code for response in answer.responses] == [None, None, 102]
    assert answer.responses[0].result.offset == 2
    publications = await kept.received(3)
    assert [publication.data for publication in publications] == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert publications[0].tags == {"k": "v"}
    await api.publish(PublishRequest(channel="live:1", data=None, b64data=base64.b64encode(b"\x00\xff").decode()))
    assert [publication.data for publication in await live.received(2)] == [{"n": 3}, "AP8="]

    history = await api.history(HistoryRequest(channel="kept:1", limit=-1))
    assert [(kept.offset, kept.data) for kept in history.publications] == [(1, {"n": 1}), (2, {"n": 3})]
    since = StreamPosition(offset=1, epoch=history.epoch)
    history = await api.history(HistoryRequest(channel="kept:1", limit=5, since=since))
    assert [kept.offset for kept in history.publications] == [2]
    await api.history_remove(HistoryRemoveRequest(channel="kept:1"))
    history = await api.history(HistoryRequest(channel="kept:1", limit=5))
    assert (history.publications, history.offset) == ([], 2)


async def test_a_backend_moves_and_sees_users(api, user):
    ada, bob = [await user(api.gateway, name, {"n": name}).connected() for name in ("ada", "bob")]
    await api.subscribe(SubscribeRequest(user="ada", channel="live:1", info={"role": "x"}, data={"hello": 1}))
    subscribed = await ada.next("subscribed")
    assert (subscribed.channel, subscribed.data) == ("live:1", {"hello": 1})
    presence = (await api.presence(PresenceRequest(channel="live:1"))).presence
    info = presence[ada.id]
    assert (info.client, info.user, info.conn_info, info.chan_info) == (ada.id, "ada", {"n": "ada"}, {"role": "x"})
    stats = await api.presence_stats(PresenceStatsRequest(channel="live:1"))
    assert (stats.num_clients, stats.num_users) == (1, 1)
    channels = (await api.channels(ChannelsRequest(pattern="live:*"))).channels
    assert {name: info.num_clients for name, info in channels.items()} == {"live:1": 1}
    node = (await api.info(InfoRequest())).nodes[0]
    assert (node.num_clients, node.num_users, node.num_channels) == (2, 2, 1) and node.uid and node.version
    await api.unsubscribe(UnsubscribeRequest(user="ada", channel="live:1"))
    await ada.next("unsubscribed")
    blind = ChannelOptionsOverride(presence=BoolValue(value=False))
    await api.subscribe(SubscribeRequest(user="ada", channel="live:1", override=blind))
    await ada.next("subscribed")
    await api.unsubscribe(UnsubscribeRequest(user="ada", channel="live:1"))
    await ada.next("unsubscribed")
    assert not (await api.channels(ChannelsRequest())).channels
    await api.disconnect(DisconnectRequest(user="bob", disconnect=Disconnect(code=4900, reason="out")))
    ended = await bob.next("disconnected")
    assert (ended.code, ended.reason) == (4900, "out")


async def test_commands_go_together(api):
    commands = [PublishRequest(channel="kept:1", data=1), PresenceStatsRequest(channel="live:1"), InfoRequest()]
    for parallel in (False, True):
        replies = (await api.batch(BatchRequest(requests=commands, parallel=parallel))).replies
        assert len(replies) == 3


async def test_refusals_are_the_clients_own_exceptions(api):
    async def refused(call):
        with pytest.raises(CentApiResponseError) as error:
            await call
        return error.value.code

    assert await refused(api.publish(PublishRequest(channel="nowhere", data=1))) == 102
    assert await refused(api.history(HistoryRequest(channel="live:1", limit=1))) == 108
    assert await refused(api.refresh(RefreshRequest(user=""))) == 107
    eve = AsyncClient(url(api.gateway), "another key of tests", timeout=DEADLINE)
    with pytest.raises(CentUnauthorizedError):
        await eve.info(InfoRequest())
    await eve.close()
    lost = AsyncClient(url(api.gateway) + "/v9", KEY, timeout=DEADLINE)
    with pytest.raises(CentTransportError):
        await lost.info(InfoRequest())
    await lost.close()


async def test_the_client_that_blocks_works_as_well(start):
    gateway = await start(CONFIG)
    session = requests.Session()
    # Never through whatever proxy the machine has.
    session.trust_env = False
    client = Client(url(gateway), KEY, timeout=DEADLINE, session=session)
    result = await asyncio.to_thread(client.publish, PublishRequest(channel="kept:1", data=1))
    assert result.offset == 1


def absent_requests():
    """A request for each method of the client that Wayleave does not have."""
    return [
        cent.GetUserStatusRequest(users=["ada"]),
        cent.UpdateUserStatusRequest(users=["ada"], state="away"),
        cent.DeleteUserStatusRequest(users=["ada"]),
        cent.DeviceRegisterRequest(provider="fcm", token="t", platform="ios"),
        cent.DeviceListRequest(),
        cent.DeviceTopicListRequest(),
        cent.UserTopicListRequest(),
        cent.CancelPushRequest(uid="x"),
    ]


async def test_methods_of_the_client_that_are_not_here_say_so(api):
    for request in absent_requests():
        with pytest.raises(CentTransportError) as error:
            await api._send(request)
        assert error.value.status_code == 404, request
    # Ours of the same name has other fields, and does not pass theirs over.
    with pytest.raises(CentApiResponseError) as error:
        await api.connections(cent.ConnectionsRequest(user="ada", expression="1 > 0"))
    assert error.value.code == 107


async def test_every_field_of_a_request_is_taken(api, user):
    ada = await user(api.gateway, "ada").connected()
    first = await api.publish(PublishRequest(channel="kept:1", data={"n": 1}))
    since = StreamPosition(offset=first.offset, epoch=first.epoch)
    await api.publish(PublishRequest(channel="kept:1", data={"n": 2}))
    encoded = {"b64info": base64.b64encode(b'{"role":"x"}').decode(), "b64data": base64.b64encode(b'{"hello":1}').decode()}
    await api.subscribe(SubscribeRequest(user="ada", client=ada.id, channel="kept:1", recover_since=since, **encoded))
    subscribed = await ada.next("subscribed")
    assert (subscribed.channel, subscribed.data) == ("kept:1", {"hello": 1})
    info = (await api.presence(PresenceRequest(channel="kept:1"))).presence[ada.id]
    assert info.chan_info == {"role": "x"}
    newest = await api.history(HistoryRequest(channel="kept:1", limit=1, reverse=True))
    assert [kept.data for kept in newest.publications] == [{"n": 2}]
    more = {"tags": {"a": "b"}, "skip_history": True, "idempotency_key": "k"}
    answer = await api.broadcast(BroadcastRequest(channels=["kept:1", "live:1"], data=None, b64data="AAH/", **more))
    assert [response.error for response in answer.responses] == [None, None]
    await api.unsubscribe(UnsubscribeRequest(user="ada", client="00000000000000010000000000000002", channel="kept:1"))
    assert (await api.presence_stats(PresenceStatsRequest(channel="kept:1"))).num_clients == 1
    await api.disconnect(DisconnectRequest(user="ada", whitelist=[ada.id]))
    assert (await api.info(InfoRequest())).nodes[0].num_clients == 1
    await api.disconnect(DisconnectRequest(user="ada", client=ada.id))
    assert (await ada.next("disconnected")).code == 3503
