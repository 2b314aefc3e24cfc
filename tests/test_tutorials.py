"""The tutorials run, and print what they say; and the program that checks them finds what is wrong."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from l2a_transfer.data.readers import open_source
from l2a_transfer.features.extraction.extract import extract
from l2a_transfer.features.store.reader import read_features
from tests.conftest import l2a, script

ROOT = Path(__file__).parents[1]
WEIGHTS = "vgg-att2-concat-pc.cifar10-w025"
PAGE = """# Count

<!-- file: numbers.txt -->
```text
one
```

```console
$ cat numbers.txt
one
$ echo 1.5 img/s
1.5 img/s
$ echo a \\
    b
a b
```

```python
from pathlib import Path

Path("made.png").write_bytes(b"")
print(len(Path("numbers.txt").read_text()))
```

```text
4
```

<!-- picture: made.png -->
![what it made](../images/made.png)
"""


@pytest.fixture(scope="module")
def tutorials() -> ModuleType:
    return script("run_tutorials")


def test_a_page_that_says_what_its_commands_print_has_no_fault(tutorials: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "count.md"
    path.write_text(PAGE)
    assert tutorials.check(path) == ""
    path.write_text(PAGE.replace("$ echo 1.5 img/s\n1.5", "$ echo 1.5 img/s\n203.25"))
    assert tutorials.check(path) == ""  # digits may differ


@pytest.mark.parametrize(
    ("was", "now", "words"),
    [
        ("cat numbers.txt\none", "cat numbers.txt\ntwo", "is 'two', should be 'one'"),
        ("\n$ echo 1.5 img/s\n1.5 img/s", "\n$ echo 1.5 img/s\n1.5 images/s", "should be '0 img/s'"),
        ("$ cat numbers.txt", "$ cat nothing.txt", "exit code 1"),
        ("picture: made.png", "picture: other.png", "no picture other.png"),
    ],
)
def test_what_a_page_says_wrongly_is_found(
    tutorials: ModuleType, tmp_path: Path, was: str, now: str, words: str
) -> None:
    assert was in PAGE
    (tmp_path / "count.md").write_text(PAGE.replace(was, now))
    assert words in tutorials.check(tmp_path / "count.md")


def test_outputs_are_written_into_a_page(tutorials: ModuleType, tmp_path: Path) -> None:
    stale = PAGE.replace("cat numbers.txt\none", "cat numbers.txt\ntwo\nthree")
    (tmp_path / "images").mkdir()
    (tmp_path / "run").mkdir()
    assert tutorials.executed(stale, tmp_path / "run", tmp_path / "images") == PAGE
    assert (tmp_path / "images" / "made.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "docs" / "tutorials").glob("*.md")))
def test_a_tutorial_runs_and_prints_what_it_says(tutorials: ModuleType, name: str) -> None:
    assert tutorials.check(tutorials.PAGES / f"{name}.md") == ""


@pytest.mark.slow
def test_the_program_of_the_page_on_onnx_gives_the_features_of_an_extraction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "howto" / "onnx.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    noise = np.random.default_rng(0).integers(0, 256, (40, 56, 4), dtype=np.uint8)
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    Path("photos").mkdir()
    Image.fromarray(noise[..., :3]).save("photos/0.jpg")
    Image.fromarray(noise[..., :3]).save("photos/1.jpg", exif=turned)
    Image.fromarray(noise).save("photos/2.png")  # transparent
    Image.fromarray(noise[..., 0]).save("photos/3.png")
    assert l2a("export", "--model", WEIGHTS, "--out", "extractor.onnx").exit_code == 0
    source = open_source("imagefolder:photos", split_from="none")
    expected = read_features(extract(source, WEIGHTS, "features.h5", progress=False).path).features
    assert np.abs(expected[0] - expected[1]).max() > 0.01  # the orientation matters
    for row, name in enumerate(source.ids):
        names: dict[str, Any] = {}
        exec(program.replace("photo.jpg", f"photos/{name}"), names)
        np.testing.assert_allclose(names["features"][0], expected[row], rtol=0, atol=1e-4)
    Image.fromarray(noise[..., 0].astype(np.uint16) << 8).save("deep.png")
    with pytest.raises(ValueError, match="8 bits"):
        exec(program.replace("photo.jpg", "deep.png"), {})


def test_the_phrases_that_read_as_translated_are_found_outside_of_code() -> None:
    prose = script("check_prose")
    text = prose.prose(
        "A verdict that speaks of it. `speaks of` is code.\n\n```\nlikewise\n```\n\nIt is\nlikewise so.\n"
    )
    assert [line for line, _ in prose.translated(text)] == [1, 8]


def test_long_sentences_are_found_and_lists_are_not_one_sentence() -> None:
    prose = script("check_prose")
    items = "\n".join(f"- {'word ' * 20}" for _ in range(3))
    assert list(prose.long_sentences(f"{items}\n\n{'word ' * 40}\n\n{'word ' * 30}. {'word ' * 20}\n")) == []
    ((line, said),) = prose.long_sentences(f"Short.\n\nShort. {'word ' * 41}\n")
    assert (line, said[:8]) == (3, "41 words")


def test_the_site_is_checked_for_every_option_and_name() -> None:
    site = script("check_site")
    pages = site.expected()
    assert {"--c-grid", "--no-overwrite", "l2a-transfer svm-eval"} <= set(pages["reference/cli"])
    assert {"extract", "AttentionFeatures"} <= set(pages["reference/python"])
    assert {"StoreError", "MissingExtraError", "Interrupted"} <= set(pages["reference/errors"])


def test_a_name_that_a_page_lacks_is_found(tmp_path: Path) -> None:
    site = script("check_site")
    for page, names in site.expected().items():
        (tmp_path / f"{page}.html").parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{page}.html").write_text(" ".join(f"<b>{name}</b>," for name in names))
    assert site.missing(tmp_path) == []
    path = tmp_path / "reference" / "errors.html"
    path.write_text(path.read_text().replace("<b>StoreError</b>", "<b>StoreErrors</b>"))
    assert site.missing(tmp_path) == ["reference/errors: StoreError"]
