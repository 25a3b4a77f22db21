import pytest
from cloud_storage import CloudStorage


@pytest.fixture(scope="session")
def server():
    """One server for all tests; each takes a folder of its own."""
    with CloudStorage() as server:
        yield server


@pytest.fixture
def store(server):
    """The server, which fails no longer than a test."""
    yield server
    server.recover()


@pytest.fixture(scope="session")
def environment(environment, server) -> dict[str, str]:
    """The environment of a command line under test, led to the server."""
    return environment | server.environment
