"""Check the English of README.md and docs/: `python scripts/check_prose.py` (extra `docs`).

proselint looks at all pages, without code, tables and links. Phrases in PHRASES read as translated. Sentences of the
pages in SHORT have at most MOST_WORDS words. The exit code is 1 if something is found.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
IGNORED = ("typography.", "lexical_illusions")
"""Checks of proselint that misread tables, quotation marks in code, and "resume"."""
TERMS = ("'salience'",)
"""Terms of the field that proselint would replace, such as "saliency"."""
MOST_WORDS = 40
SHORT = ("README.md", "docs/index.md", "docs/start/install.md", "docs/start/quickstart.md")
PHRASES = {
    r"\bspeaks? of\b": "covers, describes",
    r"\bis asked (for|of)\b": "is evaluated, is requested",
    r"\bsay(s|ing)? nothing of\b": "says nothing about",
    r"\bof a kind that\b": "that",
    r"\bby itself\b(?! (as|alone))": "on its own, separately",
    r"\blikewise\b": "also",
    r"\b(which|what) is which\b": "a noun",
    r"\bso often\b": "how many times",
    r"\blearnt by heart\b": "memorised",
    r"\bin the place of\b": "instead of",
    r"\bas far as\b": "if, to the extent that",
    r"\bthe very\b": "the same",
}
NO_PROSE = (
    re.compile(r"```.*?```", re.DOTALL),
    re.compile(r"<!--.*?-->", re.DOTALL),
    re.compile(r"^(\||    |:::).*$", re.MULTILINE),
    re.compile(r"`[^`\n]*`"),
    re.compile(r"\]\([^)]*\)"),
    re.compile(r"\$[^$\n]*\$"),
)


def pages() -> list[Path]:
    """README.md, CONTRIBUTING.md and all of docs/ that is prose."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def prose(text: str) -> str:
    """A page without code, tables and link targets, with the same number of lines."""
    for pattern in NO_PROSE:
        text = pattern.sub(lambda found: "\n" * found[0].count("\n") or "X", text)
    return text


def translated(text: str) -> Iterator[tuple[int, str]]:
    """The line number and message of each phrase in PHRASES."""
    for pattern, better in PHRASES.items():
        for found in re.finditer(pattern, text, flags=re.IGNORECASE):
            yield text.count("\n", 0, found.start()) + 1, f"{found[0]!r}: {better}?"


def long_sentences(text: str) -> Iterator[tuple[int, str]]:
    """The line number and beginning of each sentence with more than MOST_WORDS words; a list item is a sentence."""
    for block in re.finditer(r"(?:[^\n]|\n(?!\n|[-*#] |\d+\. ))+", text):
        at = block.start()
        for sentence in re.split(r"(?<=[.:?!])\s+", block[0]):
            words = [word for word in sentence.split() if re.search(r"\w", word)]
            if len(words) > MOST_WORDS:
                yield text.count("\n", 0, at) + 1, f"{len(words)} words: {' '.join(words[:8])} …"
            at += len(sentence) + 1


def linted(texts: dict[str, str]) -> list[str]:
    """The findings of proselint in the pages."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in texts.items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        command = [
            sys.executable,
            "-m",
            "proselint",
            "check",
            "--output-format",
            "json",
            *(str(Path(folder) / name) for name in texts),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if not done.stdout:
            raise RuntimeError(done.stderr)
        result = json.loads(done.stdout)["result"]
    return [
        f"{name}:{one['pos'][0]}: {one['message']}"
        for name in texts
        for one in result.get(f"file://{folder}/{name}", {}).get("diagnostics", ())
        if not one["check_path"].startswith(IGNORED) and not any(term in one["message"] for term in TERMS)
    ]


def main() -> int:
    texts = {path.relative_to(ROOT).as_posix(): prose(path.read_text(encoding="utf-8")) for path in pages()}
    found = linted(texts)
    for name, text in texts.items():
        checks = [translated(text)] + ([long_sentences(text)] if name in SHORT else [])
        found += [f"{name}:{line}: {fault}" for check in checks for line, fault in check]
    print(*found, sep="\n", end="\n" if found else "")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
