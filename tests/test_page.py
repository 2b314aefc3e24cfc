"""report.html: well-formed, alone, and safe with any name; its tables and figures hold the numbers of the results."""

from __future__ import annotations

import base64
import dataclasses
import io
import math
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from l2a_transfer.evaluation.results import EvalConfig, EvalDetail, EvalResults
from l2a_transfer.evaluation.seeds import SeedSummary
from l2a_transfer.report import charts, figures, lookup, markdown, origins, tables
from l2a_transfer.report.headline import headline
from l2a_transfer.report.markup import element, joined, name_of, shortened, words_of
from l2a_transfer.report.page import page
from l2a_transfer.text import plain
from tests.conftest import l2a
from tests.made_results import CARD, cells, comparison, digest, results, row

HOSTILE = "<script>parent.pwned=1</script>\"'><img src=x onerror=parent.pwned=2>&amp;\u202e `|*_[a](b)\ud800\x00"
VOID = {"meta", "br", "wbr"}


class Reader(HTMLParser):
    """Elements with their attributes, and the text; fails where a tag does not close the one that is open."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attributes]
        assert len(set(names)) == len(names), (tag, names)
        self.elements.append((tag, {name: value or "" for name, value in attributes}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def full(name: str = "good") -> EvalResults:
    """Two models and a variant on one set, low-shot on another, and a comparison of each kind."""
    rows = [
        row(name, 0.75),
        row("pixels", 0.5, top5=0.9),
        row(name, 0.25, variant="L2 alone", levels=("L2",), dim=3),
        *(
            row(
                label,
                value + k / 50,
                data="few",
                protocol="low-shot",
                shots=k,
                draws=2,
                C=(0.01, 0.1),
                c_grid_draws=((), ()) if k == 1 else ((0.001, 0.01), (0.01, 0.1)),
                cv_accuracy_draws=((), ()) if k == 1 else ((0.25, 0.5), (0.5, 0.75)),
                interval="corrected-t",
            )
            for k in (1, 2, 8)
            for label, value in ((name, 0.5), ("pixels", 0.25))
        ),
    ]
    pairs = [
        comparison("vgg@1.0", "vgg@0.25", 0.01, 0.5, family="architectures", test="seeds", n=(3, 4)),
        comparison(name, "pixels", 0.25),
        comparison("x", "y", ci95=None, ci95_simultaneous=None, p_adjusted=None),
        comparison(f"{name}, L2 alone", name, -0.5, family="variants", population="this weight file"),
    ]
    means = SeedSummary(
        "vgg@0.25",
        "toy",
        "official",
        None,
        ("x", name),
        ("0", "1"),
        (0.7, 0.75),
        0.725,
        0.0354,
        0.7,
        0.01,
        0.6,
        0.02,
        (digest("x"), digest(name)),
        "c0ffee",
    )
    return results(rows, pairs, seeds=[means])


def test_the_best_of_a_column_and_those_that_are_not_shown_to_be_worse() -> None:
    rows = [row("a", 0.8), row("b", 0.75), row("c", 0.5), row("d", 0.4)]
    pairs = [comparison("a", "b", 0.05, 0.2), comparison("c", "a", -0.3, 0.001)]
    made = results(rows, pairs)
    assert [lookup.standing(made, r) for r in made.rows] == ["best", "close", "behind", "unknown"]
    table = headline(made, lookup.places(made))
    assert [name for name, _ in table.columns] == ["model", "toy"]
    assert [(line[1].text, line[1].best, line[1].mark) for line in table.rows] == [
        ("80.0 [70.0, 90.0]", True, ""),
        ("75.0 [65.0, 85.0]", False, "†"),
        ("50.0 [40.0, 60.0]", False, ""),
        ("40.0 [30.0, 50.0]", False, "‡"),
    ]
    alone = results([row("a")])
    assert [cell.mark for cell in headline(alone, lookup.places(alone)).rows[0]] == ["", ""]


def test_equals_are_both_best_and_a_model_without_a_row_has_a_dash() -> None:
    made = results([row("a", 0.8), row("b", 0.8 - 2e-16), row("a", 0.3, data="other")])
    lines = headline(made, lookup.places(made)).rows
    assert [(line[1].best, line[2].text) for line in lines] == [(True, "30.0 [20.0, 40.0]"), (True, "–")]


def test_numbers_are_written_as_a_paper_would() -> None:
    assert [tables.p_value(p) for p in (0.0, 0.00099, 0.001, 0.0496, 0.0501, 0.12, 1.0)] == [
        "< 0.001",
        "< 0.001",
        "0.001",
        "0.0496",
        "0.050",
        "0.12",
        "1.00",
    ]
    assert tables.difference(comparison("a", "b", -0.0004, 1.0)) == "0.0 [−5.0, +5.0]"
    assert (
        tables.difference(comparison("a", "b", 0.0503)) == "+5.03 [+0.03, +10.03]"
    )  # not [0.0, +10.0] beside p < 0.05
    assert tables.p_value(None) == "not defined"
    assert tables.chosen(row(draws=3, C=(0.1, 0.01, 0.1))) == "0.01\u00a0×1, 0.1\u00a0×2"
    assert tables.chosen(row(C=(1e-4,))) == "0.0001"


def test_errors_are_listed_by_how_often_they_are_made() -> None:
    made = results([row()], classes=("a", "b", "c"), confusion=((5, 1, 2), (0, 9, 0), (2, 0, 6)))
    assert [[cell.text for cell in line] for line in tables.errors(made, 0, 2).rows] == [
        ["a", "c", "2", "8", "25"],
        ["c", "a", "2", "8", "25"],
    ]


def test_text_is_escaped_and_markup_is_not() -> None:
    assert element("td", '<&">', element("br"), class_='a"b', stroke_width=1.5, id=None) == (
        '<td class="a&quot;b" stroke-width="1.5">&lt;&amp;&quot;&gt;<br></td>'
    )
    assert joined(["a<", element("b", "c")], " & ") == "a&lt; &amp; <b>c</b>"
    assert plain("a\nb\x00c\u202ed\ud800\u00a0é👩‍🔬") == "a b\ufffdc\ufffdd\ufffd\u00a0é👩‍🔬"
    assert shortened("abcdefghij", 7) == "abc…hij"
    assert words_of(joined(["a<", element("b", "c&")])) == "a<c&"
    assert words_of("<b>") == "<b>"
    assert name_of("vgg-att2.x") == "<bdi>vgg-<wbr>att2.<wbr>x</bdi>"
    assert name_of("x" * 40).count("<wbr>") == 2


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 80, ["0", "20", "40", "60", "80"]),
        (-0.3, 1.2, ["−0.5", "0.0", "0.5", "1.0", "1.5"]),
        (3, 3, ["3.0", "3.2", "3.4", "3.6", "3.8", "4.0"]),
    ],
)
def test_scales_are_round(low: float, high: float, ticks: list[str]) -> None:
    assert [label for _, label in charts.round_scale(low, high).ticks] == ticks


@given(st.floats(-100, 100), st.floats(0, 200), st.integers(2, 8))
@example(0.0, 5e-324, 2)
@example(100.0, 1.1e-3, 8)
def test_a_scale_holds_what_is_drawn(low: float, span: float, most: int) -> None:
    scale = charts.round_scale(low, low + span, most=most)
    slack = 1e-6 * (scale.high - scale.low)
    assert scale.low <= low + slack
    assert low + span <= scale.high + slack
    assert 2 <= len(scale.ticks) <= most + 2
    assert len({label for _, label in scale.ticks}) == len(scale.ticks)


def test_the_page_is_well_formed_stands_alone_and_leads_only_into_itself() -> None:
    text = page(full())
    read = Reader(text)
    ids = [attributes["id"] for _, attributes in read.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    for tag, attributes in read.elements:
        assert tag not in ("script", "link", "iframe", "object", "img", "base"), tag
        assert not any(name.startswith("on") or name in ("src", "srcset", "style") for name in attributes)
        target = attributes.get("href", "#result")
        assert target.startswith("data:image/png;base64,") if tag == "image" else target[1:] in ids, target
    assert "url(" not in text
    assert "@import" not in text
    (policy,) = [a["content"] for a in read.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'")
    assert text.index("Content-Security-Policy") < text.index("<style>")
    for table in re.findall(r"<table>.*?</table>", text, flags=re.DOTALL):
        assert "<caption>" in table
        assert 'scope="col"' in table
        assert 'scope="row"' in table
    for attributes in read.all("svg"):
        assert attributes.get("aria-hidden") == "true" or attributes.get("aria-label") or attributes["class"] == "point"


def test_every_number_of_the_results_is_on_the_page_and_in_the_markdown() -> None:
    made = full()
    read, text = "".join(Reader(page(made)).text), markdown.report_markdown(made, {"c.png": 0})
    for place in (read, text):
        for r in made.rows:
            low, high = r.mean_class_accuracy_ci95
            assert f"{100 * r.mean_class_accuracy:.1f} [{100 * low:.1f}, {100 * high:.1f}]" in place
            assert r.file in place
        for c in made.comparisons:
            assert tables.difference(c) in place
            assert lookup.verdict(c) in place or c.family == "variants"
        assert "vgg@0.25: mean ± sd over 2 seeds" in place
        assert "72.5 ± 3.5" in place
        assert "simultaneous 95 % intervals and p values, adjusted for 2 comparisons (Bonferroni)" in place
        for split in made.splits:
            assert split.sha256 in place
        for fact in ("91.91 % (n 10,000, seeds 1)", "commit 2fdc86f", "name fast, epochs 14", "L2 alone", "0.1.0"):
            assert fact in place
    for title in ("Accuracy with few training images", "Ablations", "How C was chosen", "Differences between models"):
        assert f">{title}</h2>" in page(made)
    assert "## Differences between models" in text  # all of them, significant or not


def test_sections_without_content_are_left_out() -> None:
    read = Reader(page(results([row(c_grid_draws=((),), cv_accuracy_draws=((),))])))
    assert [a["href"] for a in read.all("a") if not re.search(r"\d", a["href"])] == [
        "#result",
        "#measures",
        "#errors",
        "#provenance",
    ]


def test_hostile_names_stay_text() -> None:
    card = {"name": HOSTILE, HOSTILE: {HOSTILE: [HOSTILE]}, "training": {HOSTILE: 1}, "metrics": {HOSTILE: HOSTILE}}
    everywhere = {"data": HOSTILE, "file": HOSTILE, "why": HOSTILE, "notes": (HOSTILE,), "tap": HOSTILE}
    names = ("x" * 300, "שלום", "🦆" * 300)
    rows = [row(HOSTILE, **everywhere, levels=(HOSTILE,)), *(row(name, data=HOSTILE) for name in names)]
    pairs = [comparison(HOSTILE, "x" * 300, data=HOSTILE, verdict=HOSTILE)]
    made = results(rows, pairs, classes=(HOSTILE, "b" * 300), confusion=((1, 3), (2, 2)), card=card)
    for text in (page(made), page(full(HOSTILE))):
        plainly = Reader(text)
        assert not {"script", "img"} & {tag for tag, _ in plainly.elements}
        assert not any(name.startswith("on") for _, attributes in plainly.elements for name in attributes)
        assert "\u202e" not in text
        text.encode("utf-8")
    # In Markdown a name may not start a tag, a link or a cell.
    report = markdown.report_markdown(made, {"c.png": 0})
    outside = re.sub(r"```.*?```|`[^`\n]*`", "", report, flags=re.DOTALL)
    assert "<script" not in outside
    assert "[a](b)" not in outside.replace("\\[", "")
    for table in re.findall(r"(?:^\|.*\n)+", report, flags=re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    report.encode("utf-8")


def test_a_matrix_is_a_picture_of_one_pixel_a_cell() -> None:
    detail = EvalDetail("m", digest("m"), "", "d", None, ("a", "b"), cells(((4, 0), (2, 2))), ())
    (image,) = Reader(figures.confusion(row("m"), detail).inline()).all("image")
    with Image.open(io.BytesIO(base64.b64decode(image["href"].partition(",")[2]))) as picture:
        assert np.array(picture).tolist() == [[[8, 48, 107], [255, 255, 255]], [[107, 174, 214], [107, 174, 214]]]


def test_three_sets_of_a_hundred_classes_make_a_page_of_less_than_three_megabytes() -> None:
    counts = np.random.default_rng(0).integers(0, 50, (101, 101))
    classes = tuple(f"class with a long name {k}" for k in range(101))
    rows = [row(label, data=data) for data in "abc" for label in "xyz"]
    text = page(results(rows, classes=classes, confusion=tuple(map(tuple, counts.tolist()))))
    assert 9 * 101 * 2 <= text.count("<text") < 9 * 101 * 2 + 200
    assert len(text.encode()) < 3_000_000


def markers(figure: str) -> list[tuple[float, float]]:
    found = re.findall(r'transform="translate\(([\d.]+) ([\d.]+)\)" class="marker"', figure)
    return [(float(x), float(y)) for x, y in found]


def test_low_shot_points_stand_at_the_logarithm_of_k() -> None:
    rows = [row("m", k / 16, shots=k) for k in (8, 1, 2)]
    figure = figures.low_shot("toy", rows)
    points = markers(figure)
    assert len(points) == 3  # in rising order of k
    (x1, y1), (x2, y2), (x8, y8) = points
    assert (x8 - x1) == pytest.approx(3 * (x2 - x1), abs=0.2)
    assert (y1 - y8) == pytest.approx(7 * (y1 - y2), abs=0.5)
    assert figure.count('class="line whisker"') == 3
    assert 'class="guess"' in figure


def test_a_path_of_c_is_marked_where_c_was_chosen() -> None:
    made = row(C=(0.1,), c_grid_draws=((0.001, 0.01, 0.1),), cv_accuracy_draws=((0.2, 0.4, 0.6),))
    figure = figures.c_path([made], [0], "toy")
    ((x, y),) = markers(figure)
    path = re.findall(r"[ML]([\d.]+) ([\d.]+)", re.search(r'd="(M[^"]*L[^"]*)" class="line"', figure)[1])  # type: ignore[index]
    xs, ys = [float(a) for a, _ in path], [float(b) for _, b in path]
    assert (x, y) == (xs[2], ys[2])
    assert xs[2] - xs[1] == pytest.approx(xs[1] - xs[0], abs=0.2)
    assert ys == sorted(ys, reverse=True)
    assert "10⁻³" in figure


def test_interval_bars_stand_at_their_percentages() -> None:
    scale = charts.Scale(0, 50, ())
    bar = charts.interval_bar(10, (5, 20), scale, series=1, hollow=True, guides=[(0, "zero")], label="l")
    assert 'x1="10.00%" x2="40.00%"' in bar
    assert 'x="20.00%"' in bar
    assert 'class="marker hollow"' in bar
    assert 'class="zero"' in bar


def test_sixty_four_series_can_be_told_apart() -> None:
    looks = {re.sub(r"\s+", " ", charts.swatch(k)) for k in range(64)}
    assert len(looks) == 64


def test_a_card_is_written_out_without_its_class_names() -> None:
    assert origins.card_facts(CARD) == [
        ("weights", "good"),
        ("network", "architecture vgg, width 0.25"),
        ("trained", "data cifar10, seed 0, commit 2fdc86f"),
        ("recipe", "name fast, epochs 14"),
        ("measured", "test_accuracy: 91.91 % (n 10,000, seeds 1)"),
        ("preprocess", "size 32, mean (0.5, 0.25), flip yes"),
        ("parameters", "12"),
        ("classes trained on", "2"),
    ]


def test_only_the_card_of_a_trained_network_speaks_of_weights_and_training() -> None:
    """A report had "weights: pixels" and "trained: seed 0, untrained yes"."""
    config = {"architecture": "vgg", "width": 0.25}
    assert origins.card_facts({"name": "pixels"}) == [("model", "pixels")]
    assert origins.card_facts({"name": "clip", "weights_sha256": "ab"}) == [
        ("model", "clip"),
        ("SHA-256 of the weights", "ab"),
    ]
    untrained = {"name": "untrained:vgg@0.25", "config": config, "training": {"untrained": True, "seed": 0}}
    assert origins.card_facts(untrained) == [
        ("model", "untrained:vgg@0.25"),
        ("network", "architecture vgg, width 0.25"),
        ("training", "none; random weights, seed 0"),
    ]


def test_mcnemar_is_explained_where_the_table_has_its_p() -> None:
    for p, explained in ((0.625, True), (None, False)):
        variant = comparison("good, L2", "good", family="variants")  # whose table has no such column
        made = results([row(), row("b"), row(variant="L2")], [comparison("good", "b", p_mcnemar=p), variant])
        for text in ("".join(Reader(page(made)).text), markdown.report_markdown(made, {})):
            assert ("McNemar: exact p" in text) == explained


def test_one_draw_is_counted_as_one() -> None:
    shots = [row(shots=k, protocol="low-shot", draws=1) for k in (1, 2)]
    read = "".join(Reader(page(results(shots))).text)
    assert read.count("1 draw,") == 2  # the table of results and that of all measures
    assert "2 classes, 1 draw" in read
    assert not re.search(r"\b1 draws|intervals over draws\.", read)


def test_an_ablation_of_pixels_holds_for_no_weight_file() -> None:
    rows = [row("pixels"), row("pixels", variant="float16")]
    made = results(rows, [comparison("pixels, float16", "pixels", family="variants")])
    assert "This holds for the features of this file only." in "".join(Reader(page(made)).text)
    assert "weight file" not in "".join(Reader(page(made)).text)


def test_splits_and_not_files_have_a_sha_256_of_their_images() -> None:
    made = results([row()])
    assert "Splits with the same SHA-256 have the same images" in page(made)
    assert "splits with the same SHA-256 have the same images" in markdown.report_markdown(made, {})


def test_a_card_that_several_files_share_stands_once() -> None:
    made = results([row("good"), row("b"), row("good", data="other", file="a2.h5")])
    made.cards[digest("b")] = {"name": "b"}
    good, other = digest("good"), digest("good", "other")
    assert origins.cards(made) == [
        (CARD, [("good.h5", good, "good", "toy", (0,)), ("a2.h5", other, "good", "other", (2,))]),
        ({"name": "b"}, [("b.h5", digest("b"), "b", "toy", (1,))]),
    ]


def test_a_data_set_that_is_called_like_a_mean_over_seeds_does_not_break_the_page() -> None:
    made = results([row("good", data="x: mean ± sd over 2 seeds"), row("b", data="x: mean ± sd over 2 seeds")])
    assert "good" in "".join(Reader(page(made)).text)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"protocol": "low-shot", "shots": (1, 3), "draws": 2, "ablate": ("levels", "width"), "device": "cpu"},
        {"widths": (64, 8)},
        {"compare": (("good", "b"), ("vgg@0.25 (tap ga)", "pixels"))},
        {"reference": "good"},
        {"c_grid": (0.1234567890123, 1.0), "max_memory": 1 << 30, "seed": 7, "folds": 3, "solver": "liblinear"},
    ],
)
def test_the_command_that_is_printed_repeats_the_run(
    settings: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = results([row()], **settings)
    seen: list[EvalConfig] = []

    def capture(paths: tuple[Path, ...], config: EvalConfig, *, progress: bool) -> EvalResults:
        assert paths == (Path("good.h5"),)
        seen.append(config)
        return made

    monkeypatch.setattr("l2a_transfer.evaluation.evaluate.evaluate_files", capture)
    monkeypatch.chdir(tmp_path)
    program, *arguments = shlex.split(origins.command(made))
    result = l2a(*arguments)
    assert (program, result.exit_code) == ("l2a-transfer", 0), result.output
    # What --compare takes is text; which of its commas separates two names is known when the files have been read.
    given = tuple(",".join(pair) for pair in made.config.compare)
    assert seen == [dataclasses.replace(made.config, compare=given)]


def test_colours_can_be_read_in_the_light_and_in_the_dark() -> None:
    (style,) = re.findall(r"<style>(.*?)</style>", page(results([row()])), flags=re.DOTALL)
    schemes = re.findall(r":root \{(.*?)\}", style, flags=re.DOTALL)
    assert len(schemes) == 3  # light, dark, print
    for scheme in schemes:
        colours = dict(re.findall(r"--([\w]+): (#\w+)", scheme))
        for name in ("ink", "soft", "link", *(f"s{k}" for k in range(charts.COLOURS))):
            least = 3.0 if name.startswith("s") and name != "soft" else 4.5
            assert contrast(colours[name], colours["paper"]) >= least, (name, colours[name])


def contrast(a: str, b: str) -> float:
    """WCAG 2 contrast ratio of two colours, #rgb or #rrggbb."""

    def luminance(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
        parts = [int(digits[k : k + 2], 16) / 255 for k in (0, 2, 4)]
        linear = [c / 12.92 if c <= 0.04045 else math.pow((c + 0.055) / 1.055, 2.4) for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    lighter, darker = sorted((luminance(a), luminance(b)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)
