"""The comparisons that a user asks for by name: read, checked, and what they leave out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from l2a_transfer.errors import ArgumentError, unknown_name
from l2a_transfer.evaluation.comparison_families import Wanted, against_reference, all_named, asked_pair, named
from l2a_transfer.evaluation.groups import SEEDS, Group, Source, groups_of


def pairs_of(asked: Iterable[tuple[str, str] | str], sources: Sequence[Source]) -> tuple[tuple[str, str], ...]:
    """The pairs that were asked for; `A,B` is cut at the comma that has a name of the table on either side.

    Raises: ArgumentError where there is no comma, or several do. Where none does, a single comma is the one that was
    meant, for `check_wanted` to say which name is unknown.
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
                f"compare must be two names of the table separated by a comma, as A,B; got {pair!r}, and the names are "
                f"{', '.join(map(repr, sorted(known)[:11]))}"
            )
        found += named or trimmed
    return tuple(found)


def check_wanted(wanted: Wanted, sources: Sequence[Source]) -> None:
    """Raises: UnknownNameError for a name that no row and no architecture has; ArgumentError for a name that several
    have, for a model beside itself, for two that share no data set, and for both ways of asking at once;
    EvaluationError as `plan`."""
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
                    f"{kind}: {name!r} is the name of several models; compare them in a report of their own"
                )
    for a, b in wanted.pairs:
        if a == b:
            raise ArgumentError(f"compare must name two different models, got {a!r} twice")
        if not any(asked_pair(groups, (a, b)) for groups in places):
            raise ArgumentError(f"compare: no data set has features of both {a!r} and {b!r}; extract them")


def left_out(wanted: Wanted, sources: Sequence[Source]) -> list[str]:
    """What the wanted reference is not compared with, and why, one sentence for each data set and reason."""
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
    """Names of models, and of architectures of which there are enough seeds."""
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
