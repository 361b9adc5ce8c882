"""Write into the pages what their commands print now; a development tool.

    python tools/update_docs_outputs.py [PAGE…]

Runs the blocks of the README and of every page that has some marked `<!-- as printed -->` (`page_blocks`), in order,
and rewrites those. `tests/docs/test_commands.py` fails where a page and its commands disagree.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

from page_blocks import FENCE, Block, blocks, run, show_clone, transcript

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Update the pages that are named, or all."""
    named = [Path(name).resolve() for name in sys.argv[1:]]
    for page in named or [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        if "_build" not in page.parts and any(block.printed for block in blocks(page)):
            update(page)


def update(page: Path) -> None:
    """Run a page's blocks in an empty folder, and rewrite the page where something else is printed."""
    text, found = "\n" + page.read_text(encoding="utf-8"), iter(blocks(page))
    with tempfile.TemporaryDirectory(prefix="fluidgate-page-") as made:
        folder = Path(made)
        show_clone(folder, ROOT)
        written = FENCE.sub(lambda fence: _updated(page, next(found), fence, folder), text)
    if written != text:
        page.write_text(written[1:], encoding="utf-8")
    print(f"{page.relative_to(ROOT)}: {'rewritten' if written != text else 'as it was'}", flush=True)


def _updated(page: Path, block: Block, fence: re.Match[str], folder: Path) -> str:
    """A block run in `folder`: as the page has it, or with what its commands print now if it is marked so."""
    if block.printed:
        return fence[0].removesuffix(f"{fence['text']}```") + transcript(block, folder, Path(sys.executable)) + "```"
    if block.runs:
        done = run(block, folder, Path(sys.executable))
        if done.returncode:
            raise SystemExit(f"{page}, line {block.line}:\n{block.text}\n{done.stderr}")
    return fence[0]


if __name__ == "__main__":
    main()
