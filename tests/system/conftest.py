"""A real service for the tests of this folder: its own processes, its own Valkey, over a folder of its own."""

import pytest

from tests.system import networks
from tests.system.processes import Service


@pytest.fixture(scope="session")
def net(tmp_path_factory):
    """The folder of a trained network and its data."""
    folder = tmp_path_factory.mktemp("net")
    networks.digits(folder)
    return folder


@pytest.fixture(scope="session")
def wide(tmp_path_factory):
    """The file of a network whose ingest can be interrupted."""
    file = tmp_path_factory.mktemp("wide") / "wide.pt2"
    networks.wide(file)
    return file


@pytest.fixture
def fresh(tmp_path):
    """Makes services over the test's own folder; they are ended with it."""
    made = []

    def make(**options):
        service = Service(tmp_path / "data", **options)
        made.append(service)
        return service

    yield make
    for service in made:
        service.end()


@pytest.fixture(scope="session")
def service(tmp_path_factory, net):
    """A running service with the model `net`, for tests that leave it as it is."""
    service = Service(tmp_path_factory.mktemp("service") / "data")
    try:
        service.start()
        service.publish(net)
        yield service
    finally:
        service.end()
