"""The real gateway as a child process, and the official client with all its events kept."""

import asyncio
import base64
import hashlib
import hmac
import json
import os
import re
import shutil
import signal
import tempfile
import time
from pathlib import Path

from centrifuge import Client, ClientEventHandler, SubscriptionEventHandler

ROOT = Path(__file__).resolve().parents[3]
BINARY = Path(os.environ.get("WAYLEAVE_BIN") or ROOT / "target/debug/wayleave").resolve()
FIXTURES = ROOT / "plugins/fixtures"
SECRET = "a secret of the tests, of more than 32 bytes"
# How long anything may take. Far more than it does: a shared machine pauses.
DEADLINE = 30


def fixture(name):
    """The path of a fixture plugin."""
    return str(FIXTURES / f"{name}.wat")


def fixture_text(name):
    """The text of a fixture plugin."""
    return Path(fixture(name)).read_text()


def token(claims, secret=SECRET):
    """A JSON web token with HS256, as an application's backend makes them."""

    def encode(part):
        return base64.urlsafe_b64encode(part).rstrip(b"=")

    head = {"alg": "HS256", "typ": "JWT"}
    body = b".".join(encode(json.dumps(part).encode()) for part in (head, claims))
    signature = hmac.digest(secret.encode(), body, hashlib.sha256)
    return (body + b"." + encode(signature)).decode()


def toml(table, path=()):
    """A config as TOML. Plain values are written as in JSON, which TOML shares."""
    lines, later = [], []
    for name, value in table.items():
        key = name if re.fullmatch(r"[\w-]+", name) else json.dumps(name)
        here = (*path, key)
        if isinstance(value, dict):
            later.append(f"[{'.'.join(here)}]\n{toml(value, here)}")
        elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            later += [f"[[{'.'.join(here)}]]\n{toml(item, here)}" for item in value]
        else:
            lines.append(f"{key} = {json.dumps(value)}\n")
    return "".join(lines + later)


class Inbox:
    """All that came, in order, and a way to wait for what is still to come."""

    def __init__(self):
        self.all = []
        self._came = asyncio.Event()

    def put(self, item):
        self.all.append(item)
        self._came.set()

    async def until(self, condition, what="a condition"):
        """The first truthy value of `condition(all)`, asked again whenever something comes."""
        try:
            async with asyncio.timeout(DEADLINE):
                # Several may wait: each renews the event only after it has looked.
                while not (value := condition(self.all)):
                    self._came = self._came if not self._came.is_set() else asyncio.Event()
                    await self._came.wait()
                return value
        except TimeoutError:
            newest = "\n  ".join(str(item) for item in self.all[-8:])
            raise AssertionError(f"not within {DEADLINE} s: {what}; the newest:\n  {newest}") from None

    async def first(self, fits, what="an item"):
        """The first item that fits, waited for."""
        found = await self.until(lambda items: next(([item] for item in items if fits(item)), None), what)
        return found[0]


class Gateway:
    """A gateway in a temporary folder. Relative paths of its config begin there."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="wayleave-test-"))
        self.log = Inbox()
        self.statuses = Inbox()
        self.port = 0
        self._child = None
        self._tasks = []

    async def run(self, config=None):
        """Runs the process; after a `stop` again, on the same port."""
        if config is not None:
            self.configure(config)
        self._child = await asyncio.create_subprocess_exec(
            BINARY, "run", "--config", self.folder / "config.toml",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "NO_COLOR": "1"},
        )  # fmt: skip
        started = len(self.log.all)
        self._tasks.append(asyncio.create_task(self._read_log(self._child)))

        def listening(lines):
            lines = lines[started:]
            assert not (lines and lines[-1].startswith("ended: ")), "\n".join(lines)
            return next((line for line in lines if "listening on http:" in line), None)

        line = await self.log.until(listening, "the gateway listens")
        self.port = int(re.search(r"http://127\.0\.0\.1:(\d+)", line)[1])
        self.websocket = f"ws://127.0.0.1:{self.port}/connection/websocket"
        # For the next time.
        self.configure(self._config)
        self._tasks.append(asyncio.create_task(self._follow()))
        await self.status(lambda status: True)

    async def _read_log(self, child):
        async for line in child.stderr:
            self.log.put(re.sub(r"\x1b\[[\d;]*m", "", line.decode().rstrip("\n")))
        self.log.put(f"ended: {await child.wait()}")

    async def _follow(self):
        """Reads the server-sent events for as long as the process lives."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 24)
        try:
            # HTTP/1.0, so that the answer comes without chunks.
            writer.write(b"GET /try/events HTTP/1.0\r\nHost: localhost\r\n\r\n")
            async for line in reader:
                if line.startswith(b"data:"):
                    self.statuses.put(json.loads(line[5:]))
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def status(self, fits, what="a status"):
        """The newest status that fits, as soon as there is one."""
        return await self.statuses.until(lambda all: all and fits(all[-1]) and all[-1], what)

    def write(self, name, text):
        """Puts a file into the gateway's folder as careful writers do: whole, by renaming."""
        new = self.folder / f"{name}.new"
        new.write_text(text)
        new.rename(self.folder / name)

    def configure(self, config):
        """Changes the config file; the gateway is to notice by itself."""
        self._config = config
        server = {"listen": f"127.0.0.1:{self.port}", "cache": "", "try_page": True}
        text = toml({**config, "server": {**server, **config.get("server", {})}})
        path = self.folder / "config.toml"
        if not path.exists() or path.read_text() != text:
            self.write("config.toml", text)

    def signal(self, number):
        self._child.send_signal(number)

    async def stop(self):
        """Ends it in order and gives its exit code."""
        if self._child is None:
            return None
        child, self._child = self._child, None
        if child.returncode is None:
            child.send_signal(signal.SIGTERM)
        try:
            return await asyncio.wait_for(child.wait(), DEADLINE)
        except TimeoutError:
            child.kill()
            raise
        finally:
            await asyncio.gather(*self._tasks)
            self._tasks.clear()

    async def remove(self):
        try:
            await self.stop()
        finally:
            shutil.rmtree(self.folder)


class _Recorder:
    """Puts each event as a pair of its name and its context into an inbox."""

    def __init__(self):
        self.events = Inbox()

    def __getattribute__(self, name):
        if not name.startswith("on_"):
            return super().__getattribute__(name)

        async def handler(context):
            self.events.put((name[3:], context))

        return handler


class _ClientRecorder(_Recorder, ClientEventHandler):
    pass


class _RoomRecorder(_Recorder, SubscriptionEventHandler):
    pass


class _Events:
    """What clients and rooms have in common: their events."""

    events: Inbox

    async def next(self, name, fits=lambda context: True):
        """The first event of that name that fits, waited for."""
        _, context = await self.events.first(lambda item: item[0] == name and fits(item[1]), f"event {name}")
        return context

    def of(self, name):
        return [context for event, context in self.events.all if event == name]


class Room(_Events):
    """A room as one client sees it."""

    def __init__(self, client, name, **options):
        recorder = _RoomRecorder()
        self.events = recorder.events
        self.subscription = client.new_subscription(name, recorder, **options)

    @property
    def publications(self):
        return [context.pub for context in self.of("publication")]

    async def publish(self, data):
        await self.subscription.publish(data)

    async def received(self, count):
        """The publications, once there are that many."""
        return await self.events.until(
            lambda _: len(self.publications) >= count and self.publications, f"{count} publications"
        )


class User(_Events):
    """The official client with all its events kept in order."""

    def __init__(self, gateway, **options):
        recorder = _ClientRecorder()
        self.events = recorder.events
        self.client = Client(
            gateway.websocket,
            events=recorder,
            timeout=DEADLINE,
            min_reconnect_delay=0.02,
            max_reconnect_delay=0.2,
            # Never through whatever proxy the machine has.
            proxy=None,
            **options,
        )

    @property
    def reconnects(self):
        """How often the connection was lost. The first attempt has code 0."""
        return sum(context.code != 0 for context in self.of("connecting"))

    async def connected(self):
        await self.client.connect()
        self.id = (await self.next("connected")).client
        return self

    async def room(self, name):
        """A room that is asked for, whatever comes of it."""
        room = Room(self.client, name)
        await room.subscription.subscribe()
        return room

    async def joined(self, name):
        """A room that the client is in."""
        room = await self.room(name)
        await room.subscription.ready(DEADLINE)
        return room


def seconds(from_now=0):
    """Seconds since 1970, as tokens have them."""
    return int(time.time()) + from_now
