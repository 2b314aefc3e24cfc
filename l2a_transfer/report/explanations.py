"""Sentences below the tables that explain marks, tests, intervals and columns."""

from __future__ import annotations

from l2a_transfer.evaluation.comparison_families import FAMILIES

CLOSE, UNKNOWN = "†", "‡"
MARKS = {
    CLOSE: "does not differ significantly from the best of the column (adjusted p ≥ 0.05); this does not mean that the "
    "two are equal",
    UNKNOWN: "not compared with the best of the column",
}
TESTS = {
    "permutation": "both models on the same test images of one split. p is the larger p of two tests: the exact "
    "permutation test of the difference of mean class accuracies, which swaps the two models' answers image by image, "
    "and the score test that gives the interval",
    "corrected-t": "Nadeau–Bengio corrected t-test over draws of the split, and the score test over their test images; "
    "the larger p and the wider interval of the two",
    "seeds": "t-test over training seeds. The errors over seeds (Welch) and over test images are added, both for the "
    "interval and for p; rows of the same seed are averaged first",
}
TEST_NAMES = {"permutation": "permutation", "corrected-t": "corrected\u00a0t", "seeds": "seeds"}
MCNEMAR = (
    "McNemar: exact p of equal accuracy, on the images that only one of the two models gets right. It gives each image "
    "the same weight, whereas the mean class accuracy gives each class the same weight. It is not adjusted, and no "
    "verdict is based on it."
)
INTERVALS = {
    "score": "score interval over the test images of one split (Wilson's for the accuracy, stratified by class for the "
    "mean class accuracy): how much the number would vary with other test images",
    "corrected-t": "the wider of two intervals, the Nadeau–Bengio corrected t over draws of the split and the score "
    "interval over their test images: how much the number would vary with other draws and other test images",
}


def columns_mean(*, only_svm: bool) -> tuple[str, str]:
    """Explanations of the columns of a table of measures, for the SVM only or for several probes."""
    chosen, fits = ("C", "SVMs") if only_svm else ("chosen", "classifiers")
    return (
        f"D: number of feature columns; a → b: reduced by a PCA that was fitted on training rows. {chosen}: the values "
        "that were chosen, × the number of draws that chose them.",
        f"Fits not converged: how many of all fitted {fits} did not reach the solver's tolerance; they are used "
        "nevertheless.",
    )


def adjustment(family: str, count: int) -> str:
    """A sentence about how the comparisons of a family are adjusted."""
    how = "one comparison, which needs no adjustment"
    if count > 1:
        how = (
            f"simultaneous 95 % intervals and p values, adjusted for {count} comparisons (Bonferroni); an interval "
            "excludes 0 exactly if p is below 0.05"
        )
    return f"{FAMILIES[family][0].upper()}{FAMILIES[family][1:]}: {how}"
