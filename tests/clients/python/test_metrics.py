"""The metrics by the parser that is made for their format, which takes nothing that is not right. Row A10."""

import asyncio
import re
import urllib.request

from prometheus_client.openmetrics.parser import text_string_to_metric_families
from support import SECRET, fixture

CONFIG = {
    "auth": {"anonymous": True, "jwt": {"hmac_secret": SECRET}},
    "metrics": {"enabled": True},
    "rooms": [
        {"match": "room", "publish": "members"},
        {"match": "guarded", "publish": "members", "plugins": ["p"]},
    ],
    "plugins": [{"name": "p", "path": fixture("trap")}],
}


def scrape(gateway):
    with urllib.request.urlopen(f"http://127.0.0.1:{gateway.port}/metrics") as response:
        kind = response.headers["Content-Type"]
        return kind, response.read().decode()


async def test_the_scrape_is_strict_openmetrics_and_says_what_happened(start, user):
    gateway = await start(CONFIG)
    ada = await user(gateway, "ada").connected()
    room = await ada.joined("room")
    for n in range(25):
        await room.publish({"n": n})
    await room.received(25)
    kind, text = await asyncio.to_thread(scrape, gateway)
    assert kind.startswith("application/openmetrics-text; version=1.0.0")
    # Counters end in _total, buckets rise, units stand in names, one end: it raises else.
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert all(family.documentation for family in families.values())
    assert all(name.startswith(("wayleave_", "process_")) for name in families), families.keys()

    def value(family, sample=None, **labels):
        (found,) = [
            item.value for item in families[family].samples if item.name == (sample or family) and item.labels == labels
        ]
        return found

    assert value("wayleave_connections") == 1
    assert value("wayleave_users") == 1
    assert value("wayleave_messages", "wayleave_messages_total") == 25
    assert value("wayleave_deliveries", "wayleave_deliveries_total") == 25
    assert value("wayleave_commands", "wayleave_commands_total", kind="publish") == 25
    assert value("wayleave_command_duration_seconds", "wayleave_command_duration_seconds_count", kind="publish") == 25
    buckets = [
        item.value
        for item in families["wayleave_command_duration_seconds"].samples
        if item.name.endswith("_bucket") and item.labels["kind"] == "publish"
    ]
    assert buckets == sorted(buckets) and buckets[-1] == 25
    # The system counts it in steps of ten milliseconds: work until it shows.
    async with asyncio.timeout(30):
        while float(re.search(r"^process_cpu_seconds_total (\S+)", text, re.MULTILINE)[1]) == 0:
            await room.publish({"n": 25})
            _, text = await asyncio.to_thread(scrape, gateway)
