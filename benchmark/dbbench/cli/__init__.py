"""The command `dbbench`: one module for each group of commands.

Each command parses its options, calls one function and prints. Torch is imported only when needed.
"""

from __future__ import annotations

import inspect
import sys
import traceback
from typing import Annotated

import typer

from dbbench.cli import (
    cache,
    data,
    listing,
    report,
    reproduce,
    run,
    score,
    simulation,
    status,
    study,
    validity,
)
from dbbench.errors import UserError
from dbbench.terminal import plain_console

app = typer.Typer(
    name="dbbench",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Subject-driven generation measured by the DreamBooth protocol.",
    epilog="Start with: dbbench run --suite mini --subjects dog,teapot",
)
for group in (run, status, reproduce, score, report, validity, listing, data, cache, study):
    app.add_typer(group.app)
study.study_app.add_typer(simulation.app)


def _unwrap(group: typer.Typer) -> None:
    """Join the source lines of the commands' docstrings, so that the terminal wraps the help."""
    for command in group.registered_commands:
        paragraphs = (inspect.getdoc(command.callback) or "").split("\n\n")
        command.help = "\n\n".join(" ".join(each.split()) for each in paragraphs)
    for below in group.registered_groups:
        if below.typer_instance is not None:
            _unwrap(below.typer_instance)


_unwrap(app)


def main() -> None:
    """Run the command line; a UserError is printed as one line, with exit code 2."""
    try:
        app()
    except UserError as error:
        _print_error(f"error: {error}")
        sys.exit(2)
    except Exception as error:
        traceback.print_exc()
        _print_error(
            f"unexpected error: {type(error).__name__} (traceback above); finished work is kept:"
            " rerun the same command to continue"
        )
        sys.exit(1)


def _print_error(line: str) -> None:
    plain_console(stderr=True).print(
        line, style="red", markup=False, highlight=False, soft_wrap=True
    )


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"dbbench {version('dbbench')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass
