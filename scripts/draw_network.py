"""Draw the figure of docs/concepts/method.md: the attention VGG, with the sizes of its maps at 32 × 32 pixels.

python scripts/draw_network.py --out docs/images/network.svg
"""

from __future__ import annotations

import html
from pathlib import Path

import click

from l2a_transfer.models.config import LEVELS, ModelConfig

BLOCKS = (
    # name of the block, channels at width 1, side of its output, the level that it ends with
    ("conv 1–2", 64, 32, ""),
    ("conv 3–4", 128, 32, ""),
    ("conv 5–7", 256, 32, "L1"),
    ("conv 8–10", 512, 16, "L2"),
    ("conv 11–13", 512, 8, "L3"),
    ("conv 14", 512, 4, ""),
    ("conv 15", 512, 2, ""),
)
TRUNK = 5
"""Blocks of every network; those after them and g are built only if g acts, and are dashed."""
SMALL = ' class="small"'
WIDTH, STEP, BOX_W, BOX_H, TOP, HALF = 1000, 124, 100, 58, 40, 58
CSS = """text{font:14px sans-serif;fill:#222}.small{font-size:12px;fill:#555}.box{fill:#eef2f6;stroke:#5b6b7b}
.level{fill:#dbe9f6}.attention{fill:#fdeacc;stroke:#b3761b}.feature{fill:#e2f1de;stroke:#4b7f3c}
path{fill:none;stroke:#5b6b7b;stroke-width:1.4;marker-end:url(#tip)}.g{stroke:#b3761b}.g,.optional{stroke-dasharray:5 3}
@media(prefers-color-scheme:dark){text{fill:#eee}.small{fill:#bbb}.box{fill:#2b333b}.level{fill:#234463}
.attention{fill:#54400f}.feature{fill:#274a1d}}"""

TEMPLATE = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} 440" role="img">
<title>An attention VGG: local features at L2 and L3 are weighted by attention and summed; the sums classify.</title>
<style>{css}</style>
<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">
<path d="M0,0 L8,4 L0,8 z" style="fill:#5b6b7b;stroke:none;marker-end:none"/></marker></defs>
{parts}
</svg>
"""


def box(x: float, y: float, width: float, height: float, kind: str, *lines: str) -> str:
    """A rounded box with one line of text or more, the first in the usual size."""
    middle = y + height / 2 - 8 * (len(lines) - 1) + 4.5
    texts = "".join(
        f'<text x="{x + width / 2:g}" y="{middle + 16 * k:g}" text-anchor="middle"'
        f"{SMALL if k else ''}>{html.escape(line)}</text>"
        for k, line in enumerate(lines)
    )
    return f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6"/>{texts}'


def arrow(*points: tuple[float, float], kind: str = "") -> str:
    way = " L".join(f"{x:g},{y:g}" for x, y in points)
    of = f' class="{kind}"' if kind else ""
    return f'<path d="M{way}"{of}/>'


def figure() -> str:
    """The SVG of `vgg-att2-concat-pc`, whose attention is at L2 and L3."""
    attended = ModelConfig("vgg-att2-concat-pc").spec.levels
    parts, left = [], (WIDTH - STEP * len(BLOCKS) - 60) / 2 + 30
    attention_y, feature_y, logits_y = 175, 275, 375
    centre = {}
    for k, (name, channels, side, level) in enumerate(BLOCKS):
        assert not level or LEVELS[level] == channels
        x = left + k * STEP
        kind = "box optional" if k >= TRUNK else "box level" if level else "box"
        parts.append(box(x, TOP, BOX_W, BOX_H, kind, name, f"{channels} × {side} × {side}"))
        if level:
            parts.append(f'<text x="{x + BOX_W / 2:g}" y="{TOP - 10}" text-anchor="middle">{level}</text>')
            centre[level] = x + BOX_W / 2
        following = left + (k + 1) * STEP
        middle = TOP + BOX_H / 2
        parts.append(arrow((x + BOX_W, middle), (following - 4, middle), kind="optional" if k >= TRUNK - 1 else ""))
        if k >= 2:
            gap = (x + BOX_W + following) / 2
            parts.append(f'<text class="small" x="{gap:g}" y="{TOP + BOX_H + 14}" text-anchor="middle">pool</text>')
    g_x = left + len(BLOCKS) * STEP
    parts.append(box(g_x, TOP, 44, BOX_H, "attention optional", "g"))
    branch_y, turn = attention_y - 30, g_x + 22
    for level in attended:
        x = centre[level]
        parts.append(arrow((x, TOP + BOX_H), (x, attention_y - 4)))
        parts.append(
            arrow((turn, TOP + BOX_H), (turn, branch_y), (x + 32, branch_y), (x + 32, attention_y - 4), kind="g")
        )
        parts.append(box(x - HALF, attention_y, 2 * HALF, 58, "attention", "attention", "aᵢ = softmax c(lᵢ, g)"))
        parts.append(arrow((x, attention_y + 58), (x, feature_y - 4)))
        parts.append(box(x - HALF, feature_y, 2 * HALF, 58, "feature", "g_a", f"Σᵢ aᵢ lᵢ   ({LEVELS[level]})"))
        parts.append(arrow((x, feature_y + 58), (x, logits_y - 4)))
    legend_x, legend_y = g_x - 180, attention_y + 34
    parts.append(arrow((legend_x, legend_y), (legend_x + 40, legend_y), kind="optional"))
    parts.append(f'<text x="{legend_x + 50:g}" y="{legend_y + 4.5:g}">built only if g acts</text>')
    first, last = centre[attended[0]], centre[attended[-1]]
    span = (first - HALF - 40, last - first + 2 * HALF + 80)
    parts.append(box(span[0], logits_y, span[1], 44, "feature", "concatenated g_a: the feature that is extracted"))
    end = span[0] + span[1]
    parts.append(arrow((end, logits_y + 22), (end + 56, logits_y + 22)))
    parts.append(box(end + 60, logits_y, 150, 44, "box", "linear classifier"))
    return TEMPLATE.format(width=WIDTH, css=CSS, parts="\n".join(parts))


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="SVG to write.")
def main(out: Path) -> None:
    out.write_text(figure(), encoding="utf-8")
    print(out)


if __name__ == "__main__":
    main()
