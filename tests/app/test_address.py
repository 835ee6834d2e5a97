import pytest

from app import address


@pytest.mark.parametrize(
    ("host", "url"),
    [("127.0.0.1", "http://127.0.0.1:80"), ("::1", "http://[::1]:80"), ("photos.example", "http://photos.example:80")],
)
def test_an_address_of_ipv6_is_told_from_the_port(host: str, url: str) -> None:
    assert address.url(host, 80) == url
