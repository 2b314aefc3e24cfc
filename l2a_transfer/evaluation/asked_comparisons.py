"""Read and check the comparisons that a user names, and say which models a reference leaves out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from l2a_transfer.errors import ArgumentError, unknown_name
from l2a_transfer.evaluation.comparison_families import Wanted, against_reference, all_named, asked_pair, named
from l2a_transfer.evaluation.groups import SEEDS, Group, Source, groups_of


def pairs_of(asked: Iterable[tuple[str, str] | str], sources: Sequence[Source]) -> tuple[tuple[str, str], ...]:
    """The named pairs; `A,B` is split at the comma that has a name from the table on both sides.

    Raises: ArgumentError if there is no comma, or if several commas fit. If none of several fits, the only comma is
    used, and `check_wanted` reports the unknown name.
    """
    known = set(_known_names(sources))
    found: list[tuple[str, str]] = []
    for pair in asked:
        if not isinstance(pair, str):
            found.append(pair)
            continue
        cuts = [(pair[:k], pair[k + 1 :]) for k, letter in enumerate(pair) if letter == ","]
        trimmed = [(a.strip(), b.strip()) for a, b in cuts]
        named = [cut for cut in cuts if known.issuperset(cut)] or [cut for cut in trimmed if known.issuperset(cut)]
        if len(named) > 1:
            raise ArgumentError(
                f"compare must be two names separated by a comma; {pair!r} can be split in several ways"
            )
        if not named and len(cuts) != 1:
            raise ArgumentError(
                f"compare must be two names of the table separated by a comma, such as A,B; got {pair!r}; "
                f"the names are "
                f"{', '.join(map(repr, sorted(known)[:11]))}"
            )
        found += named or trimmed
    return tuple(found)


def check_wanted(wanted: Wanted, sources: Sequence[Source]) -> None:
    """Raises: UnknownNameError for a name that no row and no architecture has; ArgumentError for an ambiguous name, a
    model compared with itself, two models without a common data set, and both kinds of request at once; EvaluationError
    as in `plan`."""
    if wanted.pairs and wanted.reference is not None:
        raise ArgumentError(
            "compare and reference cannot be used together: name pairs, or one reference for all models"
        )
    places = list(_by_data(sources).values())
    known = _known_names(sources)
    for kind, names in [*(("compare", pair) for pair in wanted.pairs), ("reference", (wanted.reference,))]:
        for name in names:
            if name is not None and name not in known:
                raise unknown_name(kind, name, known)
            if name is not None and any(len(all_named(groups, name)) > 1 for groups in places):
                raise ArgumentError(
                    f"{kind}: {name!r} is the name of several models; compare them in a separate report"
                )
    for a, b in wanted.pairs:
        if a == b:
            raise ArgumentError(f"compare must name two different models, got {a!r} twice")
        if not any(asked_pair(groups, (a, b)) for groups in places):
            raise ArgumentError(f"compare: no data set has features of both {a!r} and {b!r}; extract them")


def left_out(wanted: Wanted, sources: Sequence[Source]) -> list[str]:
    """Which models are not compared with the reference, and why: one sentence per data set and reason."""
    found: list[str] = []
    for data, groups in _by_data(sources).items() if wanted.reference is not None else ():
        reference = named(groups, wanted.reference or "")
        reasons: dict[str, list[str]] = {}
        for row, why in against_reference(groups, reference)[1]:
            reasons.setdefault(why, []).append(row.source.label)
        if reference is None:
            few = any(group.name == wanted.reference for group in groups)
            why = f"it has fewer than {SEEDS} seeds here" if few else "it has no features here"
            reasons[why] = [group.source.label for group in groups]
        found += [
            f"{data}: {', '.join(dict.fromkeys(names))}: not compared with {wanted.reference}, because {why}"
            for why, names in reasons.items()
        ]
    return found


def _known_names(sources: Sequence[Source]) -> list[str]:
    """Names of models, and of architectures with enough seeds."""
    places = _by_data(sources).values()
    return list(
        dict.fromkeys(
            [source.label for source in sources] + [g.name for groups in places for g in groups if g.is_sample]
        )
    )


@dataclass(frozen=True)
class _SourceRow:
    source: Source


def _by_data(sources: Sequence[Source]) -> dict[str, list[Group[_SourceRow]]]:
    return {
        data: groups_of([_SourceRow(source) for source in sources if source.data == data], sources)
        for data in dict.fromkeys(source.data for source in sources)
    }
