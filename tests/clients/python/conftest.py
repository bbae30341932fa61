import pytest

from support import Gateway, User, token


@pytest.fixture
async def start():
    """Starts a gateway with a config, and ends it with the test."""
    gateways = []

    async def start(config, files=None):
        gateway = Gateway()
        gateways.append(gateway)
        for name, text in (files or {}).items():
            gateway.write(name, text)
        await gateway.run(config)
        return gateway

    yield start
    for gateway in gateways:
        await gateway.remove()


@pytest.fixture
async def user(start):
    """Makes clients: nobody, or somebody by name. They are closed with the test, before the gateway."""
    users = []

    def user(gateway, name=None, info=None, **options):
        if name is not None:
            claims = {"sub": name} | ({"info": info} if info is not None else {})
            options["token"] = token(claims)
        users.append(User(gateway, **options))
        return users[-1]

    yield user
    for user in users:
        await user.client.disconnect()
