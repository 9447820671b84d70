"""The commands ``satclip satlas ...``."""

import argparse
from typing import TYPE_CHECKING

from pipelines.cli_satlas_products import add_product_actions

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def add_satlas_commands(commands: "Commands") -> None:
    """Adds ``satlas`` and its actions to the parser of ``satclip``."""
    satlas = commands.add_parser("satlas", help="monthly products of turbines, solar farms, platforms and tree cover")
    actions = satlas.add_subparsers(required=True, metavar="ACTION")
    add_product_actions(actions)
