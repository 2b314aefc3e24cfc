"""Sentences that stand below the tables: what marks, tests, intervals and columns mean."""

from __future__ import annotations

from l2a_transfer.evaluation.comparison_families import FAMILIES

CLOSE, UNKNOWN = "†", "‡"
MARKS = {
    CLOSE: "does not differ significantly from the best of the column (adjusted p ≥ 0.05), which does not make them "
    "equal",
    UNKNOWN: "not compared with the best of the column",
}
TESTS = {
    "permutation": "the same test images, one split. p is the larger one of two: the exact permutation test of the "
    "difference of mean class accuracies, which swaps the two models' answers image by image, and the score test that "
    "the interval comes from",
    "corrected-t": "Nadeau–Bengio corrected t over draws of the split, and the score test over their test images; the "
    "larger p and the wider interval of the two",
    "seeds": "t over training seeds, with the errors over seeds (Welch) and over test images added up, for the "
    "interval and for p; rows of one seed are averaged first",
}
TEST_NAMES = {"permutation": "permutation", "corrected-t": "corrected\u00a0t", "seeds": "seeds"}
MCNEMAR = (
    "McNemar: exact p of equal accuracy, on the images that one model alone gets right. It weighs images alike where "
    "the mean class accuracy weighs classes alike, it is not adjusted, and no verdict rests on it."
)
INTERVALS = {
    "score": "score interval over the test images of one split (Wilson's for the accuracy, stratified by class for the "
    "mean class accuracy): how the number would move with other test images",
    "corrected-t": "the wider one of the Nadeau–Bengio corrected t over draws of the split and the score interval over "
    "their test images: how it would move with other draws, and with other test images",
}


def columns_mean(*, only_svm: bool) -> tuple[str, str]:
    """What columns of a table of measures mean: by the SVM alone, or by several probes."""
    chosen, fits = ("C", "SVMs") if only_svm else ("chosen", "classifiers")
    return (
        f"D: feature columns, a → b after a PCA that was fitted on training rows. {chosen}: every value that was "
        "chosen, × the draws that chose it.",
        f"Fits not converged: {fits} that did not reach the solver's tolerance, of all that were fitted; they are used "
        "as they are.",
    )


def adjustment(family: str, count: int) -> str:
    """How the members of a family are adjusted, as a sentence."""
    how = "one comparison, which needs no adjustment"
    if count > 1:
        how = (
            f"simultaneous 95 % intervals, and p adjusted for its {count} comparisons (Bonferroni), so that an "
            "interval excludes 0 exactly where p is below 0.05"
        )
    return f"{FAMILIES[family][0].upper()}{FAMILIES[family][1:]}: {how}"
