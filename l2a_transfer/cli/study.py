"""`l2a-transfer study`: a whole study from a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from l2a_transfer.cli.options import (
    FOLDER,
    PATH,
    NameChoice,
    Verb,
    option,
    option_group,
)
from l2a_transfer.cli.output import echo, echo_json
from l2a_transfer.wording import are, counted


@click.command("study", cls=Verb)
@click.argument("file", type=PATH, metavar="FILE.toml")
@option_group(
    "Output",
    option("--out", type=FOLDER, required=True, metavar="DIR", help="Folder of all outputs of the study."),
    option("--json", "as_json", is_flag=True, help="Print the results as JSON; with --dry-run, the plan."),
)
@option_group(
    "Steps",
    option("--dry-run", is_flag=True, help="Print the plan and do nothing."),
    option(
        "--only",
        multiple=True,
        metavar="GLOB",
        help="Run only steps with matching names, such as 'train/*'. Repeatable.",
    ),
    option(
        "--deadline",
        type=float,
        metavar="SECONDS",
        help="Start no step that is not expected to finish within this time.",
    ),
)
@option_group(
    "Computation",
    option(
        "--jobs", metavar="N", type=int, default=1, show_default=True, help="Number of commands to run in parallel."
    ),
    option(
        "--engine",
        type=NameChoice("l2a_transfer.features.extraction.extract:ENGINES"),
        default="local",
        show_default=True,
        help="local: this machine. ray: the nodes of a Ray cluster.",
    ),
    option("--ray-address", help="Address of a running Ray cluster. [default: start one on this machine]"),
)
@click.pass_obj
def command(obj: dict[str, Any], /, file: Path, out: Path, as_json: bool, **given: Any) -> None:
    """Run a study that is described in a TOML file.

    Train, extract, evaluate and compare as the file describes. Existing outputs are verified and reused. To continue
    an interrupted study, run the same command again; the report will be the same.

    \b
    Example:
      l2a-transfer study study.toml --out study --jobs 2
    """
    from l2a_transfer.study.launch import open_launcher
    from l2a_transfer.study.read import read_study
    from l2a_transfer.study.study import preview_study, run_study

    study = read_study(file)
    if given.pop("dry_run"):
        states = preview_study(study, out, only=given["only"])
        if as_json:
            steps = [{"step": name, "state": state.what, "why": state.why} for name, state in states.items()]
            echo_json({"schema": "l2a-study-plan/1", "name": study.name, "steps": steps}, indent=1)
            return
        for name, state in states.items():
            echo(f"{state.what:8} {name}" + (f": {state.why}" if state.why else ""))
        return
    deadline, engine, address = (given.pop(name) for name in ("deadline", "engine", "ray_address"))
    if engine == "local" and address:
        raise click.UsageError("--ray-address needs --engine ray")
    with open_launcher(study, engine, environment=os.environ, ray_address=address) as launcher:
        found = run_study(study, out, launcher, deadline_s=deadline, **given)
    if as_json and found.results is not None:
        echo_json(found.results.document(), indent=1)
    elif found.results is not None:
        echo(*(out / "report" / "table.md").read_text(encoding="utf-8").splitlines(), *found.report)
    undone = [name for name, state in found.states.items() if state.what != "done"]
    if undone:
        left = f"{len(undone)} of {counted(len(found.states), 'step')} {are(len(undone))} not done"
        if found.failed:
            raise click.ClickException(f"{left}; {found.failed[0]} failed: {found.states[found.failed[0]].why}")
        echo(f"{left}; {_how_to_go_on(undone, found.left_out)}", err=True)


def _how_to_go_on(undone: list[str], left_out: list[str]) -> str:
    """What the same command does about the steps that are not done, and what a command without --only would do."""
    again = "run the same command again to continue"
    if not left_out:
        return again
    trained = sum(name.startswith("train/") for name in left_out)
    without = "the same command without --only runs them"
    without += f", and trains {counted(trained, 'network')}" if trained else ""
    if len(left_out) == len(undone):
        return f"--only leaves them out; {without}"
    return f"{again} with {len(undone) - len(left_out)} of them; --only leaves out the others; {without}"
