"""The command group, with error handling, exit codes and logging for all verbs."""

from __future__ import annotations

import logging
import sys
import warnings
from importlib import import_module
from typing import Any

import click

from l2a_transfer.cli.failures import Explanation, terminable
from l2a_transfer.cli.output import accept_every_letter
from l2a_transfer.errors import L2AError, nearest
from l2a_transfer.lock import check_system
from l2a_transfer.text import terminal
from l2a_transfer.version import __version__

VERBS = {
    "quickstart": "quickstart",
    "train": "train",
    "extract": "extract",
    "import": "import_features",
    "svm-eval": "svm_eval",
    "study": "study",
    "export": "export",
    "maps": "maps",
    "explain": "explain",
    "sanity": "sanity",
    "localize": "localize",
    "faithfulness": "faithfulness",
    "robustness": "robustness",
    "models": "models",
    "layers": "layers",
    "datasets": "datasets",
    "inspect": "inspect",
}


class OneLineFormatter(logging.Formatter):
    """Formats a log record as one line and escapes control characters."""

    def format(self, record: logging.LogRecord) -> str:
        return terminal(super().format(record))


def _one_line(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> str:
    """Formats a Python warning as one line, without the source code."""
    return f"{category.__name__}: {terminal(str(message))}\n"


class Verbs(click.Group):
    """Imports the module of a verb only when it is used, so that `--help` is fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        command = getattr(import_module(f"l2a_transfer.cli.{VERBS[name]}"), "command")  # noqa: B009
        assert isinstance(command, click.Command)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            close = nearest(args[0], VERBS)
            ctx.fail(f"no such command {args[0]!r}" + (f"; did you mean {close!r}?" if close else ""))
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb. An exception becomes one sentence on stderr and an exit code."""
        with Explanation(lambda: self._options(ctx), traceback=ctx.params["traceback"]):
            return super().invoke(ctx)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        with Explanation(list):  # errors of options before the verb
            return super().parse_args(ctx, args)

    def _options(self, ctx: click.Context) -> dict[str, str]:
        """Parameter → option of the called verb. Arguments map to an empty string."""
        command = self.get_command(ctx, ctx.invoked_subcommand or "")
        options = command.params if command else []
        return {
            one.name: max((o for o in one.opts if o[:2] == "--"), default="", key=len) for one in options if one.name
        }

    def main(self, *arguments: Any, **options: Any) -> Any:
        accept_every_letter()  # must come first, because help is printed before any verb runs
        try:
            check_system()
        except L2AError as error:
            raise SystemExit(f"Error: {error}") from None
        with terminable():
            return super().main(*arguments, **options)


@click.command(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "--version", prog_name="l2a-transfer")
@click.option("-q", "--quiet", is_flag=True, help="Hide progress and log messages; print only warnings and errors.")
@click.option(
    "--traceback", is_flag=True, envvar="L2A_DEBUG", help="Show the traceback of an error [env: L2A_DEBUG=1]."
)
@click.pass_context
def main(ctx: click.Context, quiet: bool, traceback: bool) -> None:
    """Train attention networks, extract their features, and measure how well these generalize.

    \b
    Example: l2a-transfer quickstart --out quickstart
    """
    ctx.obj = {"progress": not quiet}
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLineFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    warnings.formatwarning = _one_line
    # Only our own logger: the ONNX exporter logs every graph pass at this level.
    logging.getLogger("l2a_transfer").setLevel(logging.WARNING if quiet else logging.INFO)
