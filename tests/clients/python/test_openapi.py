"""What docs/openapi.json says, held against the running server: each method, what is sent and what comes back."""

import json

import aiohttp
import pytest
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012 as SPEC

from support import DEADLINE, SECRET, fixture

KEY = "a key of the tests"
CONFIG = {
    "auth": {"jwt": {"hmac_secret": SECRET}},
    "api": {"keys": [{"name": "tests", "key": KEY}]},
    "rooms": [
        {"match": "kept:*", "publish": "members", "presence": True, "history": {"size": 10, "ttl": "1m"}},
        {"match": "live:*", "presence": True, "plugins": ["p"]},
        {"match": "plain:*", "publish": "anyone"},
        {"match": "doc:*", "records": {"count": 2, "size": "1KiB"}},
    ],
    "plugins": [{"name": "p", "path": fixture("pass")}, {"name": "echo", "path": fixture("echo-call")}],
}


class Api:
    """Calls methods, and refuses what is not as it is described."""

    def __init__(self, gateway, session, described):
        self.url = f"http://127.0.0.1:{gateway.port}/api"
        self.session = session
        self.described = described
        self.registry = Registry().with_resource("wayleave:api", Resource.from_contents(described, default_specification=SPEC))
        self.succeeded = set()

    def check(self, pointer, value):
        # By its address in the whole document, in which its own references are.
        validator = Draft202012Validator({"$ref": f"wayleave:api#{pointer}"}, registry=self.registry)
        errors = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]
        assert not errors, f"{pointer}: {errors} in {json.dumps(value)}"

    async def call(self, method, parameters=None, expected=None):
        parameters = parameters or {}
        at = f"/paths/~1api~1{method}/post"
        if expected != 107:
            self.check(f"{at}/requestBody/content/application~1json/schema", parameters)
        headers = {"X-API-Key": KEY}
        async with self.session.post(f"{self.url}/{method}", json=parameters, headers=headers) as response:
            assert response.status == 200
            answer = await response.json()
        self.check(f"{at}/responses/200/content/application~1json/schema", answer)
        if expected is None:
            assert "error" not in answer, f"{method}: {answer}"
            self.succeeded.add(method)
            return answer.get("result", answer)
        assert answer["error"]["code"] == expected, answer
        return answer["error"]


@pytest.fixture
async def api(start):
    gateway = await start(CONFIG)
    timeout = aiohttp.ClientTimeout(total=DEADLINE)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        async with session.get(f"http://127.0.0.1:{gateway.port}/api/openapi.json") as response:
            assert response.status == 200 and response.content_type == "application/json"
            described = await response.json()
        api = Api(gateway, session, described)
        api.gateway = gateway
        yield api


async def test_every_method_answers_as_it_is_described(api, user):
    ada, bob = [await user(api.gateway, name, {"n": name}).connected() for name in ("ada", "bob")]
    await ada.joined("kept:1")
    call = api.call
    await call("publish", {"channel": "kept:1", "data": {"n": 1}, "tags": {"k": "v"}, "idempotency_key": "one"})
    await call("publish", {"channel": "live:1", "b64data": "AAH/", "skip_history": True})
    await call("publish", {"channel": "nowhere", "data": 1}, 102)
    await call("broadcast", {"channels": ["kept:1", "plain:1", "nowhere"], "data": [1]})
    await call("subscribe", {"user": "ada", "channel": "live:1", "info": {"role": "x"}, "data": 1})
    await call("subscribe", {"to": ["connection:" + bob.id], "channel": "live:1"})
    await call("presence", {"channel": "live:1"})
    await call("presence_stats", {"channel": "live:1"})
    await call("presence", {"channel": "plain:1"}, 108)
    await call("history", {"channel": "kept:1", "limit": -1})
    position = await call("history", {"channel": "kept:1"})
    since = {"offset": 1, "epoch": position["epoch"]}
    await call("history", {"channel": "kept:1", "limit": 5, "since": since, "reverse": False})
    await call("channels", {"pattern": "*"})
    await call("info")
    await call("rpc", {"method": "echo", "params": {"x": 1}})
    await call("rpc", {"method": "echo", "params": 1, "all": True, "timeout_ms": 1000})
    await call("rpc", {"method": "nothing", "all": True})
    await call("send", {"to": ["room:live:1", "user:ada"], "except": ["user:bob"], "data": 1, "local": True})
    await call("send", {"to": ["somebody"], "data": 1}, 107)
    await call("requests", {"to": ["user:ada"], "data": 1, "timeout_ms": 1})
    page = await call("connections", {"limit": 1})
    await call("connections", {"cursor": page["next"], "user": None})
    await call("connections", {"user": "ada"})
    await call("connections", {"nonsense": 1}, 107)
    page = await call("members", {"channel": "live:1", "limit": 1})
    await call("members", {"channel": "live:1", "cursor": page["next"]})
    await call("record", {"channel": "doc:1", "record": "a", "set": {"x": 1}})
    await call("record", {"channel": "doc:1", "record": "a", "patch": {"y": 1}, "version": 1})
    conflict = await call("record", {"channel": "doc:1", "record": "a", "set": 1, "version": 1})
    assert conflict["conflict"] and conflict["data"] == {"x": 1, "y": 1}
    await call("records", {"channel": "doc:1"})
    await call("users", {"users": ["ada", "nobody"]})
    await call("instances")
    plugins = await call("plugins")
    assert [plugin["name"] for plugin in plugins["plugins"]] == ["p", "echo"]
    assert plugins["plugins"][1]["calls"]["call"]["count"] >= 2
    commands = [{"publish": {"channel": "plain:1", "data": 1}}, {"info": {}}, {"history": {"channel": "plain:1"}}]
    replies = (await call("batch", {"commands": commands, "parallel": True}))["replies"]
    assert [list(reply) for reply in replies] == [["publish"], ["info"], ["error"]]
    await call("history_remove", {"channel": "kept:1"})
    await call("unsubscribe", {"user": "ada", "channel": "live:1"})
    await call("disconnect", {"user": "bob", "disconnect": {"code": 4900, "reason": "out"}, "whitelist": None})
    await call("refresh", {"user": "ada", "expire_at": 4_000_000_000})
    await call("refresh", {"user": "nobody", "client": None, "expired": True})
    await call("revoke_token", {"uid": "a-token", "expire_at": 4_000_000_000})
    await call("revoke_token", {}, 107)
    await call("invalidate_user_tokens", {"user": "somebody", "issued_before": 1_700_000_000})
    await call("invalidate_user_tokens", {"user": "", "expire_at": 1}, 107)
    await call("reload")
    await call("reload", {"all": True})
    api.gateway.configure({**CONFIG, "rooms": CONFIG["rooms"][:3]})
    await api.gateway.status(lambda status: status["generation"] > 1, "the change is live")
    await call("rollback")
    await call("rollback", {"all": True})
    lines = await tail(api, "?room=kept:1", {"channel": "kept:1", "data": 7})
    assert [line["type"] for line in lines[:2]] == ["tailing", "message"]
    await call("drain")
    methods = {path.removeprefix("/api/") for path in api.described["paths"]}
    assert methods - api.succeeded == {"tail"}


async def tail(api, query, publish):
    """The first lines of a tail, in which this is published."""
    lines = []
    async with api.session.get(f"{api.url}/tail{query}", headers={"X-API-Key": KEY}) as response:
        assert response.content_type == "application/x-ndjson"
        async for line in response.content:
            lines.append(json.loads(line))
            api.check("/components/schemas/TailLine", lines[-1])
            if len(lines) == 1:
                await api.call("publish", publish)
            if len(lines) == 2:
                return lines


async def test_what_is_wrong_before_a_method_is_asked_is_described_too(api):
    described = "/components/schemas/Error"
    for method, path, headers, status in [
        ("POST", "/info", {}, 401),
        ("POST", "/nothing", {"X-API-Key": KEY}, 404),
        ("GET", "/info", {"X-API-Key": KEY}, 405),
    ]:
        async with api.session.request(method, api.url + path, headers=headers) as response:
            assert response.status == status
            api.check(described, await response.json())


async def test_without_a_key_there_is_nothing_to_describe(start):
    gateway = await start({"auth": {"anonymous": True}})
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{gateway.port}/api/openapi.json") as response:
            assert response.status == 404


def test_the_checker_sees_what_is_not_described():
    """Of a schema that is closed, or the test above could not fail."""
    from support import ROOT

    described = json.loads((ROOT / "docs/openapi.json").read_text())
    api = Api(type("Gateway", (), {"port": 0}), None, described)
    api.check("/components/schemas/Acted", {"connections": 1})
    for name, wrong in [
        ("Acted", {"connections": "1"}),
        ("Acted", {"connections": 1, "more": 1}),
        ("Node", {"uid": "x"}),
        ("MembersResult", {"members": [{"client": "x", "user": "y", "secret": 1}]}),
    ]:
        with pytest.raises(AssertionError):
            api.check(f"/components/schemas/{name}", wrong)
