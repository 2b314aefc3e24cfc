"""`l2a-transfer study`: a whole study from a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from l2a_transfer.cli.output import echo, echo_json
from l2a_transfer.cli.paths import FOLDER, PATH
from l2a_transfer.wording import are, counted


@click.command("study")
@click.argument("file", type=PATH, metavar="FILE.toml")
@click.option("--out", type=FOLDER, required=True, metavar="DIR", help="Folder of the study: all that it makes.")
@click.option("--jobs", type=int, default=1, show_default=True, help="Commands that run at a time.")
@click.option("--only", multiple=True, metavar="GLOB", help="Only steps of these names, as 'train/*'; repeatable.")
@click.option("--deadline", type=float, metavar="SECONDS", help="Begin no step that cannot end in time.")
@click.option("--engine", default="local", show_default=True, help="local, or ray: commands on a cluster's nodes.")
@click.option("--ray-address", help="Of a running Ray cluster; by default one is started on this machine.")
@click.option("--dry-run", is_flag=True, help="Print what would be done, and do nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the results, or with --dry-run the plan, as JSON.")
@click.pass_obj
def command(obj: dict[str, Any], /, file: Path, out: Path, as_json: bool, **given: Any) -> None:
    """Train, extract, evaluate and compare what a study's file plans; what is there is checked and reused.

    The same command goes on with a study that was interrupted, and ends with the same report.

    \b
    Example:
      l2a-transfer study study.toml --out study --jobs 2
    """
    from l2a_transfer.study.launch import launcher_of
    from l2a_transfer.study.read import read_study
    from l2a_transfer.study.study import foresee, run_study

    study = read_study(file)
    if given.pop("dry_run"):
        states = foresee(study, out, only=given["only"])
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
    with launcher_of(study, engine, environment=os.environ, ray_address=address) as launcher:
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
        echo(f"{left}; the same command goes on", err=True)
