"""report.html in headless Chromium: nothing is cut, overlaps or runs, on a phone, a desk and paper."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path
from typing import Any

import pytest

from l2a_transfer.report.page import page
from tests.made_results import comparison, results, row
from tests.test_page import HOSTILE, full

pytestmark = pytest.mark.browser

WIDTHS = (360, 768, 1280)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# The pages stand in frames of one width each; what is measured comes back as JSON in the dumped document.
MEASURE = """
const meet = (a, b, from, to) => a[from] < b[to] - 0.5 && b[from] < a[to] - 0.5;
const clash = (a, b) => meet(a, b, "left", "right") && meet(a, b, "top", "bottom");
const boxes = (root) => [...root.querySelectorAll("text")].map((e) => e.getBoundingClientRect());
function measure(frame) {
  const page = frame.contentDocument, root = page.documentElement, found = [];
  for (const svg of page.querySelectorAll("svg.chart, svg.ticks")) {
    const own = boxes(svg);
    own.forEach((a, i) => own.slice(i + 1).forEach((b) => { if (clash(a, b)) found.push(svg.getAttribute("class")); }));
  }
  for (const text of page.querySelectorAll("svg.chart text, svg.matrix text")) {
    const a = text.getBoundingClientRect(), b = text.ownerSVGElement.getBoundingClientRect();
    if (a.left < b.left - 1 || a.right > b.right + 1 || a.top < b.top - 1 || a.bottom > b.bottom + 1)
      found.push(text.textContent);
  }
  const outside = [...page.querySelectorAll("main *")].filter((e) => !e.closest(".scroll, .hidden"))
    .filter((e) => e.getBoundingClientRect().right > root.clientWidth + 1).map((e) => e.tagName);
  const cut = [...page.querySelectorAll("th, td, dd, li, p")].filter((e) => e.scrollWidth > e.clientWidth + 1 &&
    e.clientWidth > 0).map((e) => e.textContent.slice(0, 40));
  return {
    width: root.clientWidth, content: root.scrollWidth, overlaps: found, outside, cut,
    scripts: page.scripts.length, pwned: window.pwned ?? null, tables: page.querySelectorAll("table").length,
    font: getComputedStyle(page.body).fontFamily, pictures: [...page.images].length,
    loaded: frame.contentWindow.performance.getEntriesByType("resource").map((e) => e.name),
  };
}
window.addEventListener("load", () => {
  document.getElementById("out").textContent = JSON.stringify([...document.querySelectorAll("iframe")].map(measure));
});
"""


@pytest.fixture(scope="module")
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert found, "these tests need Chromium: apt-get install chromium"
    return found


def run(program: str, folder: Path, *arguments: str) -> str:
    command = [program, *FLAGS, f"--user-data-dir={folder / 'profile'}", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


def measured(program: str, folder: Path, text: str) -> list[dict[str, Any]]:
    frames = "".join(f'<iframe width="{w}" height="800" srcdoc="{escape(text)}"></iframe>' for w in WIDTHS)
    wrapper = folder / "wrapper.html"
    wrapper.write_text(f'<!DOCTYPE html><meta charset="utf-8">{frames}<pre id="out"></pre><script>{MEASURE}</script>')
    dumped = run(program, folder, "--dump-dom", wrapper.as_uri())
    return json.loads(unescape(re.findall(r'<pre id="out">(.*?)</pre>', dumped, flags=re.DOTALL)[-1]))  # type: ignore[no-any-return]


def hostile() -> str:
    rows = [row(HOSTILE, data=HOSTILE, levels=(HOSTILE,)), row("x" * 300, data=HOSTILE), row("🦆" * 300, data=HOSTILE)]
    pairs = [comparison(HOSTILE, "x" * 300, data=HOSTILE, verdict=HOSTILE + "y" * 300)]
    card = {"name": HOSTILE, "training": {"commit": "z" * 300}}
    return page(results(rows, pairs, classes=(HOSTILE, "b" * 300), confusion=((1, 3), (2, 2)), card=card))


@pytest.mark.parametrize("text", [page(full()), hostile()], ids=["plain", "hostile"])
def test_nothing_is_cut_overlaps_or_runs_at_any_width(chromium: str, tmp_path: Path, text: str) -> None:
    found = measured(chromium, tmp_path, text)
    assert [one["width"] for one in found] == pytest.approx(WIDTHS, abs=20)  # less a scroll bar
    for one in found:
        assert one["content"] <= one["width"], one
        assert one["overlaps"] == one["outside"] == one["cut"] == one["loaded"] == [], one
        assert (one["scripts"], one["pwned"]) == (0, None)
        assert one["tables"] >= 3
        assert "Charter" in one["font"]  # the style was let through by the page's own policy


def test_the_browser_would_see_a_page_that_is_too_wide_or_runs_something(chromium: str, tmp_path: Path) -> None:
    text = '<!DOCTYPE html><main><p style="width:500px">x</p><table></table></main><script>parent.pwned=1</script>'
    narrow = measured(chromium, tmp_path, text)[0]
    assert narrow["content"] > narrow["width"]
    assert narrow["outside"] == ["P"]
    assert (narrow["scripts"], narrow["pwned"]) == (1, 1)


def test_it_prints_on_a4(chromium: str, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(page(full()), encoding="utf-8")
    target = tmp_path / "report.pdf"
    run(chromium, tmp_path, "--no-pdf-header-footer", f"--print-to-pdf={target}", (tmp_path / "report.html").as_uri())
    content = target.read_bytes()
    assert content.startswith(b"%PDF")
    assert set(re.findall(rb"/MediaBox \[0 0 (\d+)[\d.]* (\d+)", content)) == {(b"594", b"841")}
    assert 2 <= len(re.findall(rb"/Type /Page\b(?!s)", content)) <= 8
