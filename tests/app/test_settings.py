"""Settings as the environment gives them."""

import pytest

from app import settings


def test_what_a_setting_cannot_be_is_said_in_a_line_that_names_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GRAFT_BATCH_SIZE", "x")
    monkeypatch.setenv("GRAFT_LOG_LEVEL", "loud")
    with pytest.raises(SystemExit) as ended:
        settings.from_environment()

    assert ended.value.code == 2
    level, size = sorted(capsys.readouterr().err.splitlines(), reverse=True)
    assert level.startswith("GRAFT_LOG_LEVEL=loud: valid are CRITICAL,")
    assert size.startswith("GRAFT_BATCH_SIZE=x: Input should be a valid integer")


def test_a_time_has_an_end(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("GRAFT_REQUEST_HEAD_SECONDS", "inf")
    with pytest.raises(SystemExit) as ended:
        settings.from_environment()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("GRAFT_REQUEST_HEAD_SECONDS=inf: Input should be a finite number")


def test_the_level_of_the_log_may_be_written_in_small_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFT_LOG_LEVEL", "warning")
    assert settings.from_environment().log_level == "WARNING"
