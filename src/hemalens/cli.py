"""The command line: one thin command a stage. It parses, calls the stage's function and prints its summary.

Imports of the stages happen inside the commands, so that ``--help`` and torch-free commands start at once.
"""

import logging
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.logging import RichHandler
from typer.exceptions import TyperException

from hemalens.commands import checking, data, scoring, service, training, whole
from hemalens.core.errors import UserError
from hemalens.core.provenance import version

__all__ = ["app", "main"]

_INTERRUPTED = 130

app = typer.Typer(
    name="hemalens",
    help="From dirty blood-cell images to a classifier one can trust. Not for diagnosis.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},  # every command inherits it
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(version())
        raise typer.Exit


@app.callback()
def common(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and debug messages.")] = False,
    show_version: Annotated[  # noqa: ARG001  # its callback acts before a command is looked for
        bool, typer.Option("--version", help="Print the version and stop.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Set up what all commands share."""
    handler = RichHandler(console=Console(stderr=True), show_path=debug, show_time=False)
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, format="%(message)s", handlers=[handler])


for _command in (
    data.audit,
    data.clean,
    data.split,
    training.find_lr,
    training.overfit_check,
    training.train,
    scoring.evaluate,
    scoring.explain,
    scoring.report,
    service.export,
    service.predict,
    service.serve,
    service.package,
    checking.verify,
    whole.run,
    whole.demo,
):
    app.command()(_command)


def main() -> None:
    """Run the command line; exit 0 when done, 2 where the user can mend it (one line on stderr), 1 for a defect."""
    debug = "--debug" in sys.argv
    try:
        # Named, so that `python -m hemalens` too explains itself, and completes, by the script's name.
        code = app(prog_name="hemalens", standalone_mode=False)
    except UserError as error:
        code = _fail(str(error), 2, debug=debug)
    except TyperException as error:
        text = " ".join(error.format_message().split()).rstrip(".")
        code = _fail(f"{text or 'no command given'}; see: hemalens --help", 2, debug=debug)
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except Exception as error:  # noqa: BLE001  # the outermost frame: a defect is one line too, --debug shows the rest
        code = _fail(
            f"defect: {type(error).__name__}: {error}; please report it with the output of --debug", 1, debug=debug
        )
    if code == _INTERRUPTED:  # typer makes it of a KeyboardInterrupt inside a command, without a word
        _fail("interrupted; repeat the command to continue (train: add --resume)", code, debug=False)
    sys.exit(code or 0)


def _fail(message: str, code: int, *, debug: bool) -> int:
    if debug:
        raise  # noqa: PLE0704  # called from an except block only
    plain = "".join(sign if sign.isprintable() else " " for sign in message)  # one line, whatever a library says
    print(f"error: {plain}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
