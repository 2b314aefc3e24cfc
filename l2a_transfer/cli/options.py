"""Shared parts of options: named groups in the help, and types that check names and paths.

The help is that of click with options in groups. It is plain text, never breaks the name of an option, and is the same
in a terminal and in a pipe. (rich-click draws boxes into pipes, breaks long names at 80 columns and wraps the example.)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import click

from l2a_transfer.errors import unknown_name
from l2a_transfer.files import names_a_format

Command = TypeVar("Command", bound=Callable[..., Any])
OTHER = "Other options"
NAMES_WIDTH = 28
"""Columns for the names of options; a longer name gets its own line."""


class GroupedOption(click.Option):
    """An option that the help lists below the heading `group`."""

    group = OTHER


class Verb(click.Command):
    """A command whose help lists its options in groups, in the order in which the groups are declared."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                groups.setdefault(getattr(parameter, "group", OTHER), []).append(record)
        others = groups.pop(OTHER, [])
        groups[OTHER if groups else "Options"] = others  # below all groups: --help
        width = min(NAMES_WIDTH, formatter.width // 3)
        for title, records in groups.items():
            # The descriptions of all groups are aligned, even if all names of a group are short.
            (name, text), *others = records
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), text), *others], col_max=width)


def option_group(title: str, *options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """A decorator that adds options to a command and lists them under one heading in its help.

    Parameters
    ----------
    title : str
        The heading.
    *options : callable
        Decorators that each add options made by `option`.
    """

    def add(command: Command) -> Command:
        parameters = command.__dict__.setdefault("__click_params__", [])
        before = len(parameters)
        for one in reversed(options):
            command = one(command)
        for parameter in parameters[before:]:
            assert isinstance(parameter, GroupedOption)
            parameter.group = title
        return command

    return add


def option(*names: str, **settings: Any) -> Callable[[Command], Command]:
    """`click.option` for use in an `option_group`."""
    return click.option(*names, cls=GroupedOption, **settings)


class NameChoice(click.Choice[str]):
    """One of a fixed set of names. A wrong name raises the library's own error, which suggests the nearest one.

    Parameters
    ----------
    names : str or sequence of str
        The names, or the place of their declaration in the form ``"package.module:ATTRIBUTE"``. That module is imported
        when the names are needed, for the help or to check a value. The names of a registry or mapping are its keys.
    """

    def __init__(self, names: str | Sequence[str]) -> None:
        super().__init__(())
        self.names = names

    @property
    def choices(self) -> tuple[str, ...]:
        if not isinstance(self.names, str):
            return tuple(self.names)
        module, _, attribute = self.names.partition(":")
        return tuple(getattr(import_module(module), attribute))

    @choices.setter
    def choices(self, value: Sequence[str]) -> None:
        """Ignored. Click sets this once, to an empty value."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Raises: UnknownNameError, which the command line reports like any wrong argument."""
        names = self.choices
        if value not in names:
            raise unknown_name(param.name or "" if param else "name", str(value), names)
        return str(value)


class NameList(NameChoice):
    """Comma-separated names of a fixed set. Each is checked like the name of a `NameChoice`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text, unchanged. Raises: UnknownNameError."""
        for name in split_names(str(value)):
            super().convert(name, param, ctx)
        return str(value)


def split_names(text: str | None) -> tuple[str, ...]:
    """The comma-separated names in a text; empty for None."""
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


class _Path(click.Path):
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("an empty name; the current folder is called '.'", param, ctx)
        # Shells expand ~ only at the beginning of a word, so not in --out=~/x.
        return super().convert(os.path.expanduser(value), param, ctx)


class _Folder(_Path):
    """A folder that is created if it is missing. A new name with a file suffix is rejected as a mistake."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = super().convert(value, param, ctx)
        if names_a_format(found) and not found.exists():
            problem = f"{str(value)!r} looks like a file, but a folder is needed; leave out {found.suffix}"
            self.fail(problem, param, ctx)
        return found


PATH = _Path(path_type=Path, readable=False)
"""The type of an option that is a path. Whether it can be read or written is checked by the library."""
FOLDER = _Folder(path_type=Path, readable=False)
"""The type of an option that is a folder to write into."""
SEED = click.IntRange(0, 2**32 - 1)
"""The type of a random seed."""


def numbers(flag: str, text: str, kind: Callable[[str], Any], example: str) -> tuple[Any, ...]:
    """Parse `1,2,4` as numbers of one kind. Raises: click.UsageError, naming the option and showing the example."""
    try:
        return tuple(kind(number) for number in text.split(","))
    except ValueError as error:
        raise click.UsageError(f"{flag} must be numbers separated by commas, such as {example}: {error}") from error


def names(text: str) -> tuple[str, ...]:
    """Parse `a, b` as names."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


reading_options = option_group(
    "Data",
    option(
        "--split-from",
        type=NameChoice("l2a_transfer.data.layout:SPLITS_FROM"),
        default="auto",
        show_default=True,
        help="How splits are assigned. auto: by folder name. folders: each first-level folder is a split. none: one "
        "split.",
    ),
    option(
        "--verify-source/--no-verify-source",
        default=False,
        help="Detect changed images by content, not by size and time. Reads every file; use it from the first run.",
    ),
)
"""Options of every command that reads a data set."""
SOURCE = ("data", "data_dir", "download", "split_from", "verify_source")
"""Names of the options that specify a data set, as parameters of `open_source`."""


def device_option(of: str = "") -> Callable[[Command], Command]:
    """`--device`. `of` is a sentence that says what runs there, if it is not the whole command."""
    return option(
        "--device",
        type=NameChoice("l2a_transfer.devices:DEVICES"),
        default="auto",
        show_default=True,
        help=f"{of} auto: a CUDA GPU if there is one.".lstrip(),
    )


def networks_option() -> Callable[[Command], Command]:
    """`--model` of a command that compares networks."""
    return option(
        "--model",
        multiple=True,
        required=True,
        help="Bundled name, .safetensors file or untrained:ARCH[@WIDTH]. Repeatable.",
    )


def weights_option() -> Callable[[Command], Command]:
    """`--weights` of a command that takes networks of other packages."""
    return option(
        "--weights", type=PATH, metavar="FILE", help="Checkpoint of a torchvision:, timm:, hf: or module: model."
    )


preprocess_options = option_group(
    "Preprocessing",
    option(
        "--image-size",
        metavar="N",
        type=click.IntRange(4, 4096),
        help="Side of the input in pixels. [default: the model's own]",
    ),
    option(
        "--fit",
        type=NameChoice("l2a_transfer.preprocess:FITS"),
        help="How to make images square: stretch them, or crop the middle. [default: the model's own]",
    ),
    option("--mean", metavar="R,G,B", help="Mean of each channel, in a range of 0 to 1. [default: the model's own]"),
    option("--std", metavar="R,G,B", help="Standard deviation of each channel. [default: the model's own]"),
)
"""Preprocessing options of commands that take networks of other packages."""


def preprocess_values(given: dict[str, Any]) -> dict[str, Any]:
    """The values of `preprocess_options` as arguments of `open_backend`. Raises: click.UsageError."""
    found = {key: given[key] for key in ("image_size", "fit")}
    for key in ("mean", "std"):
        found[key] = given[key] and numbers(f"--{key}", given[key], float, "0.485,0.456,0.406")
    return found


def tested_images_options(limit: int) -> Callable[[Command], Command]:
    """Options that select the test images in `--data`. `limit` is the default of `--limit`."""
    return option_group(
        "Data",
        option("--data-dir", type=PATH, help="Folder that contains the data set."),
        option("--download/--no-download", default=False, help="Download the data set into --data-dir."),
        option("--split", help="Use only this split. [default: test, if there is one]"),
        reading_options,
        option(
            "--limit",
            metavar="N",
            type=click.IntRange(min=1),
            default=limit,
            show_default=True,
            help="Use at most N images per split, balanced over the classes.",
        ),
    )


def report_options(document: str, *others: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """Options for the output of a report. `document` is its JSON file, and `others` come after `--out`."""
    return option_group(
        "Output",
        option("--out", type=FOLDER, required=True, metavar="DIR", help="Output folder of the report."),
        *others,
        option("--overwrite/--no-overwrite", default=False, help="Overwrite an earlier report in --out."),
        option("--json", "as_json", is_flag=True, help=f"Print {document} instead of the table."),
    )
