"""The process that answers requests."""

import resource
from collections.abc import Iterator

import pytest

from app import server


@pytest.fixture
def hard() -> Iterator[int]:
    """How many files may be open at most, where few may be for now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_server_may_have_as_many_connections_as_the_system_allows(hard: int) -> None:
    server.allow_many_connections()

    soft, still = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert still == hard
    assert soft == (65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536))
