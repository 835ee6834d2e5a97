"""Colours that can be told from their ground."""

import pytest

from app.backbones import palette
from app.backbones.palette import DARK, LIGHT, Theme


def test_contrasts_are_those_of_their_source() -> None:
    assert palette.contrast("#000000", "#ffffff") == pytest.approx(21)
    assert palette.contrast("#123456", "#123456") == 1
    # The example of the guidelines' technique G18: the lightest grey that passes on white.
    assert palette.contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_lines_stand_out_by_three_and_text_by_four_and_a_half(theme: Theme) -> None:
    assert all(palette.contrast(colour, theme.paper) >= 3 for colour in (theme.first, theme.second, *theme.lines))
    assert all(palette.contrast(colour, theme.paper) >= 4.5 for colour in (theme.ink, theme.muted))
    assert len(set(theme.lines)) == len(theme.lines) == len(LIGHT.lines)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("kind", ["first", "second"])
def test_every_tone_takes_black_or_white(theme: Theme, kind: str) -> None:
    for percent in range(101):
        ground = palette.mixed(getattr(theme, kind), theme.paper, percent / 100)
        assert palette.contrast(palette.ink_on(ground), ground) >= 4.5


def test_what_is_laid_on_a_ground_is_between_the_two() -> None:
    assert palette.mixed("#ff0000", "#0000ff", 1) == "#ff0000"
    assert palette.mixed("#ff0000", "#0000ff", 0) == "#0000ff"
    assert palette.mixed("#ffffff", "#000000", 0.2) == "#333333"
