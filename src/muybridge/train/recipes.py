"""Configurations by name: those that come with the package, and files of one's own."""

import difflib
from importlib import resources
from pathlib import Path

from muybridge.config import TrainConfig
from muybridge.errors import ConfigError

__all__ = ["read_recipe", "recipe_names"]


def recipe_names() -> tuple[str, ...]:
    """The recipes that come with the package.

    >>> "weizmann" in recipe_names()
    True
    """
    names = [file.name for file in (resources.files("muybridge") / "recipes").iterdir()]
    return tuple(sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml")))


def read_recipe(recipe: str, *, root: Path | str | None = None) -> TrainConfig:
    """A configuration: a recipe of the package by its name, or a YAML file.

    Args:
        recipe: a name of `recipe_names`, or the path of a file.
        root: where the videos are; None keeps what the file says.

    Raises:
        ConfigError: no such recipe or file, or a bad key or value in it.

    >>> read_recipe("weizmann", root="clips").data.root
    'clips'
    >>> read_recipe("weizmn")
    Traceback (most recent call last):
        ...
    muybridge.errors.ConfigError: there is no file weizmn and no recipe of that name; did you mean 'weizmann'?
    """
    if recipe in recipe_names():
        with resources.as_file(resources.files("muybridge") / "recipes" / f"{recipe}.yaml") as path:
            config = TrainConfig.from_yaml(path)
    elif Path(recipe).is_file():
        config = TrainConfig.from_yaml(recipe)
    else:
        close = difflib.get_close_matches(recipe, recipe_names(), n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"the recipes are: {', '.join(recipe_names())}"
        raise ConfigError(f"there is no file {recipe} and no recipe of that name; {hint}")
    if root is None:
        return config
    return config.model_copy(update={"data": config.data.model_copy(update={"root": str(root)})})
