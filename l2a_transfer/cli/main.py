"""The command group, and what every verb shares: error handling, exit codes and logging."""

from __future__ import annotations

import errno
import logging
import sys
from importlib import import_module
from typing import Any

import click

from l2a_transfer import __version__
from l2a_transfer.errors import L2AError, UnknownNameError, nearest

VERBS = {
    "quickstart": "quickstart",
    "train": "train",
    "extract": "extract",
    "svm-eval": "svm_eval",
    "export": "export",
    "maps": "maps",
    "models": "models",
    "datasets": "datasets",
    "inspect": "inspect",
}
TO_DO = {
    errno.ENOENT: "check the spelling, and that the folder is there",
    errno.EEXIST: "a file is where a folder is needed; choose another path",
    errno.ENOTDIR: "a file is where a folder is needed; choose another path",
    errno.EISDIR: "a folder is where a file is needed; name a file",
    errno.EACCES: "check who may use it, or choose another path",
    errno.EPERM: "check who may use it, or choose another path",
    errno.EROFS: "it is on a disk that cannot be written; choose another path",
    errno.ENOSPC: "the disk is full; free some space, or choose another path",
    errno.ELOOP: "a link leads back to itself; remove the link",
    errno.ENAMETOOLONG: "choose a shorter name",
}
"""What a user can do where the operating system refuses."""


class Verbs(click.Group):
    """Loads a verb's module when it is asked for, so that `--help` never waits for torch."""

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
        """Turns the package's errors into one line on stderr: misuse exits 2, a failure exits 1."""
        try:
            return super().invoke(ctx)
        except UnicodeError as error:
            raise click.ClickException(f"a name that is not UTF-8 ({error}); rename the file or folder") from error
        except (UnknownNameError, ValueError) as error:
            raise click.UsageError(str(error)) from error
        except L2AError as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # whoever read our output, as `head`, has enough; click ends quietly
            where = f"{error.filename}: " if error.filename else ""
            todo = TO_DO.get(error.errno or 0)
            raise click.ClickException(f"{where}{error.strerror or error}{f'; {todo}' if todo else ''}") from error
        except RuntimeError as error:  # torch raises it wherever this process stands
            if "DataLoader worker" not in str(error):
                raise
            raise click.ClickException(
                f"a decoding process ended: {str(error).splitlines()[0]}; fewer --workers take less memory, and 0 "
                "decodes in this process"
            ) from error
        except KeyboardInterrupt:
            click.echo(
                "Interrupted; what is complete stays, and the same command (train: with --resume, not --overwrite) "
                "uses it.",
                err=True,
            )
            sys.exit(130)


@click.command(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "--version", prog_name="l2a-transfer")
@click.option("-q", "--quiet", is_flag=True, help="No progress and no log, errors only.")
@click.pass_context
def main(ctx: click.Context, quiet: bool) -> None:
    """Attention networks, their features in HDF5, and how well those generalize.

    \b
    Example: l2a-transfer quickstart --out quickstart
    """
    ctx.obj = {"progress": not quiet}
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    # Only our own log: the ONNX exporter tells of every graph pass at this level.
    logging.getLogger("l2a_transfer").setLevel(logging.WARNING if quiet else logging.INFO)
