"""The pages that show the rows: one table a section in the results folder, the same tables on the performance page."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks import tables, targets
from benchmarks.section import Section, text_of

TABLE = "table.md"


def write_tables(folder: Path, sections: Sequence[Section]) -> None:
    """Write all sections' tables into the results folder."""
    parts = [f"## {section.title}\n\n{text_of(section, folder)}" for section in sections]
    head = f"# Benchmarks\n\n{targets.table(folder)}"
    (folder / TABLE).write_text("\n\n".join([head, *parts]) + "\n")


def filled(page: Path, folder: Path, sections: Sequence[Section]) -> str:
    """Return a page's text with the blocks of the targets and of all sections holding what the folder's rows say."""
    text = tables.fill(page.read_text(), "targets", targets.table(folder))
    relative = Path(os.path.relpath(folder, page.parent)).as_posix()
    for section in sections:
        body = re.sub(r"\]\((?!https?:)", f"]({relative}/", text_of(section, folder))
        text = tables.fill(text, section.name, body)
    return text
