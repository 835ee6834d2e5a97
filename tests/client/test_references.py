"""How a model version is addressed."""

import pytest
from typer.testing import CliRunner

from client import cli, references
from client.errors import Refused
from client.references import Reference
from tests.e2e import service

WRONG = ["flowers@v2", "flowers@", "flowers@2 ", "flowers@0", "flowers@-1", "flowers@2@3", "flowers:", "flowers@2:x"]


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("flowers", Reference("flowers", None, None)),
        ("flowers@12", Reference("flowers", 12, None)),
        ("flowers:production", Reference("flowers", None, "production")),
    ],
)
def test_a_version_is_addressed_in_three_ways(text: str, reference: Reference) -> None:
    assert references.parse(text) == reference


@pytest.mark.parametrize("text", WRONG)
def test_what_is_no_reference_is_refused_with_what_would_be_right(text: str) -> None:
    with pytest.raises(Refused, match="as in 'flowers@2'"):
        references.parse(text)


@pytest.mark.parametrize(
    "command",
    [
        ["runtimes", "flowers@v2", "--runtime", "torch"],
        ["optimise", "flowers@v2"],
        ["plan", "flowers", "--base", "flowers@v2"],
    ],
)
def test_a_command_does_nothing_with_a_version_that_is_none(command: list[str]) -> None:
    result = CliRunner().invoke(cli.app, [*command, "--url", f"http://127.0.0.1:{service.free_port()}"])

    assert result.exit_code == 1
    assert "'flowers@v2' addresses no model version" in result.stderr
