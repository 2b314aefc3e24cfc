"""Settings and results of an evaluation: the config, and the rows, details and comparisons of a report."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from l2a_transfer.devices import check_device_name
from l2a_transfer.errors import ArgumentError, MissingExtraError, names_keywords, unknown_name, wrong_kind
from l2a_transfer.evaluation.compare import Comparison
from l2a_transfer.evaluation.comparison_families import Wanted
from l2a_transfer.evaluation.detail import EvalDetail as EvalDetail
from l2a_transfer.evaluation.detail import Misclassified
from l2a_transfer.evaluation.domains import DomainDrop, DomainPlace, domains_document
from l2a_transfer.evaluation.probes.registry import PROBES, SVM
from l2a_transfer.evaluation.protocols import AUTO, PROTOCOLS, SHOTS, check_over_domains
from l2a_transfer.evaluation.seeds import SeedSummary
from l2a_transfer.evaluation.shown_rows import row_cells
from l2a_transfer.evaluation.splits import Split
from l2a_transfer.evaluation.variants import ABLATIONS
from l2a_transfer.notebook import html_table
from l2a_transfer.svm.config import DECADES, SOLVERS
from l2a_transfer.text import terminal
from l2a_transfer.wording import counted

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "l2a-results/1"
REPR_ROWS = 12
"""How many rows the `__repr__` of results shows."""


@names_keywords
@dataclass(frozen=True)
class EvalConfig:
    """The settings of an evaluation: everything that changes its numbers except the features.

    Parameters
    ----------
    protocol : str, default="auto"
        How rows are split into training and test sets. "auto" chooses by the splits and classes of the data.
    c_grid : sequence of float, default=(1e-4, 1e-3, 1e-2, 1e-1)
        Values of C to try; they are sorted. With one value, no cross-validation is run.
    folds : int, default=5
        Folds of the cross-validation that chooses C.
    draws : int, optional
        Number of random splits; set by the protocol by default.
    solver : {"batched", "liblinear"}, default="batched"
        The SVM solver.
    seed : int, default=0
        Random seed of the splits, the folds and the permutation tests.
    jobs : int, default=1
        Threads for liblinear. The number does not affect the results.
    tol : float, optional
        Stopping tolerance of the solver; its own by default.
    max_iter : int, optional
        Maximum number of solver iterations; set by the solver by default.
    decades : int
        How many times the grid may be extended by a factor of ten if the best C is at its edge.
    shots : sequence of int
        Training images per class in the low-shot protocol.
    ablate : sequence of str
        Ablations: variants of each model that are evaluated as well.
    widths : sequence of int
        Also evaluate each model after a PCA to these numbers of columns.
    compare : sequence of (str, str) or str
        Pairs of models, or of architectures over their seeds, as (A, B) or "A,B". Without `compare` and `reference`,
        the planned families of comparisons are used.
    reference : str, optional
        Compare every other model with this one only.
    device : {"auto", "cpu", "cuda"}, default="auto"
        Device of the batched solver.
    max_memory : int, optional
        Most bytes that the batched solver may allocate; by default, half of the memory that this process may still
        use.
    source, target : str or sequence of str
        Domains to train on and to test on, in a protocol over domains; all by default.
    class_map : mapping or sequence of (str, str)
        Class of one domain → class of another that it counts as, in a protocol over domains.
    probes : sequence of str, default=("svm",)
        The classifiers on the features. Each of them adds a row for every model and chooses its hyperparameters on the
        training rows only. Models are compared within each probe.
    logme : bool, default=False
        Also report the LogME score of the training rows, which needs no classifier.

    Raises
    ------
    UnknownNameError
        For an unknown protocol, solver, device, variant or probe.
    ArgumentError
        For a number out of range.

    Examples
    --------
    >>> EvalConfig(protocol="stratified", c_grid=(1e-2, 1e-3), draws=3).c_grid
    (0.001, 0.01)
    """

    protocol: str = "auto"
    c_grid: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1)
    folds: int = 5
    draws: int | None = None
    solver: str = "batched"
    seed: int = 0
    jobs: int = 1
    tol: float | None = None
    max_iter: int | None = None
    decades: int = DECADES
    shots: tuple[int, ...] = SHOTS
    ablate: tuple[str, ...] = ()
    widths: tuple[int, ...] = ()
    compare: tuple[tuple[str, str] | str, ...] = ()
    reference: str | None = None
    device: str = "auto"
    max_memory: int | None = None
    source: tuple[str, ...] = ()
    target: tuple[str, ...] = ()
    class_map: Mapping[str, str] | tuple[tuple[str, str], ...] = ()
    probes: tuple[str, ...] = (SVM,)
    logme: bool = False

    @property
    def wanted(self) -> Wanted:
        """The requested comparisons."""
        return Wanted(tuple(pair for pair in self.compare if not isinstance(pair, str)), self.reference)

    def __post_init__(self) -> None:
        protocol = PROTOCOLS.find(self.protocol)
        for name in ("source", "target"):
            given: Any = getattr(self, name)
            object.__setattr__(self, name, (given,) if isinstance(given, str) else tuple(given))
        object.__setattr__(self, "class_map", tuple(map(tuple, dict(self.class_map).items())))
        check_over_domains(self.protocol, source=self.source, target=self.target, class_map=self.class_map)
        if self.solver not in SOLVERS:
            raise unknown_name("solver", self.solver, SOLVERS)
        check_device_name(self.device)
        probes: Any = self.probes
        if isinstance(probes, str):
            raise wrong_kind("probes", "a sequence of names, such as ('svm', 'knn')", probes)
        object.__setattr__(self, "probes", tuple(probes))
        if not self.probes or len(set(self.probes)) < len(self.probes):
            raise ArgumentError(f"probes must be distinct, such as svm,knn; got {','.join(self.probes) or 'none'}")
        for name in self.probes:
            PROBES.find(name)
        for name in self.ablate:
            if name not in ABLATIONS:
                raise unknown_name("ablate", name, ABLATIONS)
        if any(width < 1 for width in self.widths):
            raise ArgumentError(f"widths must be numbers of columns of at least 1, got {list(self.widths)}")
        if not self.shots or min(self.shots) < 1:
            raise ArgumentError(f"shots must be numbers of images of at least 1, got {list(self.shots)}")
        grid = tuple(sorted(self.c_grid))
        # liblinear never returns for C = 1e300, and cannot be interrupted.
        if not grid or len(set(grid)) < len(grid) or not all(1e-10 <= C <= 1e10 for C in grid):
            raise ArgumentError(
                "c_grid must be different positive numbers between 1e-10 and 1e10, such as 1e-4,1e-3,1e-2; "
                f"got {list(self.c_grid)}"
            )
        object.__setattr__(self, "c_grid", grid)
        least = {
            "folds": 2,
            "draws": 1,
            "seed": 0,
            "jobs": 1,
            "max_iter": 1,
            "decades": 0,
            "max_memory": 1,
        }
        for name, smallest in least.items():
            value = getattr(self, name)
            if value is not None and value < smallest:
                raise ArgumentError(f"{name} must be at least {smallest}, got {value}")
        if self.seed >= 2**32:  # scikit-learn's limit
            raise ArgumentError(f"seed must be at most {2**32 - 1}, got {self.seed}")
        if not protocol.is_drawn and (self.draws or 1) > 1:
            drawn = ", ".join(name for name, one in PROTOCOLS.items() if one.is_drawn and name != AUTO)
            raise ArgumentError(
                f"draws must be 1 with protocol {self.protocol}, which is one fixed split, got {self.draws}; "
                f"these draw their splits: {drawn}"
            )


@dataclass(frozen=True)
class EvalRow:
    """One model on one data set. Accuracies and intervals are fractions between 0 and 1.

    A row is identified by `data`, `file_sha256` (the digest of the feature file), `variant`, `shots` and `probe`.
    `label` is the model's name for readers, with a piece of the file's path if several models share the name; `line` is
    the model's number, the same for all data sets. `file`: path relative to the common folder of the report's files.
    `C` and the `…_draws` have one value per draw. `interval` says what the intervals are taken over: `score` (test rows
    of the one split) or `corrected-t` (draws). `splits` points into `EvalResults.splits`. `chance` is the mean class
    accuracy of guessing among the trained classes. `variant` says how an ablation differs from the unchanged model
    (""); `shots`: training images per class in low-shot. `top5` is None with five classes or fewer. `c_grid_draws`: the
    candidates of each draw, including added ones. `fits`: number of fits; `unconverged`: those that missed the solver's
    tolerance. `probe`: the classifier; `chosen`: its hyper-parameters in words; `C` is empty for a probe without C.
    `logme`: the LogME score of the training rows, if requested.
    """

    label: str
    variant: str
    model: str
    data: str
    file: str
    file_sha256: str
    line: int
    tap: str
    levels: tuple[str, ...]
    precision: str
    backend: str
    normalization: str
    solver: str
    protocol: str
    why: str
    shots: int | None
    draws: int
    n_classes: int
    n_train: int
    n_test: int
    dim: int
    components: int | None
    C: tuple[float, ...]
    c_grid_draws: tuple[tuple[float, ...], ...]
    cv_accuracy_draws: tuple[tuple[float, ...], ...]
    interval: str
    accuracy: float
    accuracy_ci95: tuple[float, float]
    accuracy_draws: tuple[float, ...]
    mean_class_accuracy: float
    mean_class_accuracy_ci95: tuple[float, float]
    mean_class_accuracy_draws: tuple[float, ...]
    macro_f1: float
    top5: float | None
    chance: float
    fits: int
    unconverged: int
    seconds: float
    splits: tuple[int, ...]
    notes: tuple[str, ...]
    probe: str = SVM
    chosen: tuple[str, ...] = ()
    logme: float | None = None


@dataclass(frozen=True)
class EvalResults:
    """Rows of an evaluation. `rows` and `details` are parallel; `splits` holds the indices of every split. `seeds`:
    means over the training seeds of an architecture, if there are several. `cards`: `file_sha256` → card of the feature
    file's model, with the digest of its weights. `domains` and `drops` are filled by protocols over domains. `test_ids`
    and `test_classes`, not in results.json: ids and true classes of the test images of each of `splits`, in the order
    of its `test`; `pictures`: images shown on the page, from `misclassified`."""

    config: EvalConfig
    rows: tuple[EvalRow, ...]
    comparisons: tuple[Comparison, ...]
    seeds: tuple[SeedSummary, ...]
    details: tuple[EvalDetail, ...]
    cards: dict[str, dict[str, Any]]
    splits: tuple[Split, ...]
    versions: dict[str, str]
    domains: tuple[DomainPlace, ...] = ()
    drops: tuple[DomainDrop, ...] = ()
    test_ids: tuple[tuple[str, ...], ...] = ()
    test_classes: tuple[tuple[str, ...], ...] = ()
    pictures: tuple[Misclassified, ...] = ()

    def document(self) -> dict[str, Any]:
        """The JSON document of schema `l2a-results/1`."""
        return {
            "schema": SCHEMA,
            "config": dataclasses.asdict(self.config),
            "versions": self.versions,
            "rows": [dataclasses.asdict(row) for row in self.rows],
            "comparisons": [dataclasses.asdict(comparison) for comparison in self.comparisons],
            "seeds": [dataclasses.asdict(summary) for summary in self.seeds],
            "details": [detail.document() for detail in self.details],
            "splits": [dict(vars(split)) for split in self.splits],
            "cards": self.cards,
            **domains_document(self.domains, self.drops),
        }

    def to_pandas(self) -> pd.DataFrame:
        """A DataFrame with one row for each of `rows`, in the same order, and one column per field.

        An interval becomes two columns, such as `accuracy_ci95_low` and `accuracy_ci95_high`; values per draw stay
        tuples.

        Raises
        ------
        MissingExtraError
            If pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise MissingExtraError("to_pandas", "pandas", "pandas") from error
        flat = []
        for row in self.rows:
            cells: dict[str, Any] = {}
            for name, value in vars(row).items():
                if name.endswith("_ci95"):
                    cells |= {f"{name}_low": value[0], f"{name}_high": value[1]}
                else:
                    cells[name] = value
            flat.append(cells)
        return pd.DataFrame(flat)

    @property
    def _classifiers(self) -> str:
        return "linear SVMs" if all(row.probe == SVM for row in self.rows) else "probes"

    def __repr__(self) -> str:
        head = f"{counted(len(self.rows), 'row')}, {counted(len(self.comparisons), 'comparison')}"
        lines = [f"<EvalResults: {head}; mean class accuracy [95 %] of {self._classifiers} on frozen features>"]
        for data, label, variant, protocol, accuracy, *_ in map(row_cells, self.rows[:REPR_ROWS]):
            name = f"{label} ({variant})" if variant else label
            lines.append(terminal(f"  {data}, {protocol}: {name} {accuracy} %"))
        lines += [f"  … and {len(self.rows) - REPR_ROWS:,} more in .rows"] if len(self.rows) > REPR_ROWS else []
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        headings = (
            "data",
            "model",
            "variant",
            "protocol",
            "mean class accuracy, % [95 %]",
            "accuracy, %",
            "train",
            "test",
        )
        return html_table(
            headings,
            [row_cells(row) for row in self.rows],
            caption=f"{self._classifiers[0].upper()}{self._classifiers[1:]} on frozen features",
        )
