"""What a recipe can say on the command line and in Python, beside what the service knows."""

import inspect
import json
from dataclasses import fields

import pytest
from typer.testing import CliRunner

from app import augmentation, limits
from app import recipe as recipes
from client import cli, options, recipe
from client.options import Options
from tests.client.test_plans import Service, service
from tests.client.test_show import PLANNED

__all__ = ["service"]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (recipe.Recipe, recipes.Recipe),
        (recipe.Augmentation, augmentation.Augmentation),
        (recipe.Budget, limits.Budget),
        (recipe.Search, limits.Search),
    ],
)
def test_the_client_can_ask_for_all_that_the_service_knows(ours: type, theirs: type) -> None:
    assert {field.name for field in fields(ours)} == {field.name for field in fields(theirs)}


def test_every_field_of_a_recipe_is_an_option_of_the_commands_that_train_and_plan() -> None:
    by_other_names = {"budget": {"max_latency", "max_size"}}
    wanted = {name for each in fields(recipe.Recipe) for name in by_other_names.get(each.name, {each.name})}
    assert {field.name for field in fields(Options)} == wanted
    for command in (cli.train, cli.plan):
        assert wanted <= inspect.signature(command).parameters.keys()


def test_what_is_given_is_asked_for_and_nothing_else(service: Service) -> None:
    service.answers = [PLANNED]
    given = ["--backbone", "resnet18", "--strategy", "top", "--base", "flowers@1", "--label-map", "rose=roses"]
    given += ["--replay", "--freeze", "layer2", "--epochs", "3", "--accumulate", "2", "--augmentation", "trivial"]
    given += ["--label-smoothing", "0.1", "--version", "4", "--url", service.url]
    result = CliRunner().invoke(cli.app, ["plan", "insects", *given])

    assert result.exit_code == 0, result.output
    (asked,) = service.asked
    assert json.loads(asked) == {
        "dataset": "insects",
        "version": 4,
        "measure": False,
        "recipe": {
            "backbone": "resnet18",
            "strategy": "top",
            "base": "flowers@1",
            "label_map": {"rose": "roses"},
            "replay": True,
            "freeze": "layer2",
            "epochs": 3,
            "accumulate": 2,
            "augmentation": {"policy": "trivial"},
            "label_smoothing": 0.1,
            "seed": 0,
        },
    }


def test_limits_and_a_search_are_parts_of_the_recipe() -> None:
    made = Options(backbone="auto", max_latency=20, max_size=10, search=300).recipe()
    assert made == recipe.Recipe(
        backbone="auto",
        budget=recipe.Budget(latency_ms=20, size_bytes=10_000_000),
        search=recipe.Search(seconds=300),
    )
    assert Options().recipe() == recipe.Recipe(backbone="mobilenet_v2")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("body.recipe.epochs: not for strategy 'head'", "--epochs: not for strategy 'head'"),
        ("body.recipe.label_smoothing: too much", "--label-smoothing: too much"),
        ("body.recipe.augmentation.policy: Input should be", "--augmentation: Input should be"),
        ("body.recipe.budget: only for backbone 'auto'", "--max-latency, --max-size: only for backbone 'auto'"),
        ("body.recipe.budget.latency_ms: too small", "--max-latency: too small"),
        ("map those that were renamed with label_map", "map those that were renamed with --label-map"),
        ("body.forms.0: no form 'x'", "--form: no form 'x'"),
        ("body.scratch.epochs: too many", "--scratch-epochs: too many"),
        ("body.version: too large", "--version: too large"),
        ("no backbone 'x'; the weights of stage_probe", "no backbone 'x'; the weights of stage_probe"),
    ],
)
def test_what_the_service_says_of_fields_is_told_of_options(said: str, told: str) -> None:
    assert options.named(said) == told
