"""Protocols over domains: which domains are trained on, and which is tested on."""

from __future__ import annotations

from l2a_transfer.errors import ArgumentError, EvaluationError
from l2a_transfer.evaluation.protocols import Setting, register_domains
from l2a_transfer.wording import counted

Names = tuple[str, ...]
ONE_FILE = "extract with `domain_from`, or give one feature file a domain"


@register_domains("cross-domain")
def cross_domain(domains: Names, sources: Names, targets: Names) -> list[Setting]:
    """Fit and choose C on one domain and test on another, compared with the same within the other domain."""
    if len(domains) < 2:
        raise EvaluationError(f"cross-domain needs at least two domains, got only {', '.join(domains)}", ONE_FILE)
    found = [Setting((a,), b) for a in sources or domains for b in targets or domains if a != b]
    if not found:
        raise ArgumentError(
            f"source and target are the same domain, {', '.join(sources)}", "`protocol='within'` measures that"
        )
    return found


@register_domains("leave-one-domain-out")
def leave_one_domain_out(domains: Names, sources: Names, targets: Names) -> list[Setting]:
    """Fit on all other domains and test on the one left out; choose C by leaving out each source in turn."""
    if len(domains) < 3:
        raise EvaluationError(
            f"leave-one-domain-out needs at least three domains, two to choose C on and one to test on; got "
            f"{counted(len(domains), 'domain')}, {', '.join(domains)}",
            f"{ONE_FILE}; with two domains, use `protocol='cross-domain'`",
        )
    found = []
    for target in targets or domains:
        others = tuple(name for name in sources or domains if name != target)
        if len(others) < 2:
            raise ArgumentError(
                f"leave-one-domain-out needs two sources other than {target}, got {', '.join(others) or 'none'}",
                "name more domains in `source`, or omit it",
            )
        found.append(Setting(others, target, by_domain=True))
    return found


@register_domains("within")
def within(domains: Names, sources: Names, targets: Names) -> list[Setting]:
    """Fit, choose C and test within one domain, for each domain."""
    if sources:
        raise ArgumentError("source is for protocols across domains", "name `target`")
    return [Setting((name,), name) for name in targets or domains]
