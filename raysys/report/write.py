"""Reports: folders in, one self-contained HTML page and CSV tables out."""

import logging
import re
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from raysys.location import Location
from raysys.report.analysis import importance, top_rows
from raysys.report.collect import Run, Sweep, read_folder
from raysys.report.figures import comparison_figure
from raysys.report.glossary import glossary
from raysys.report.page import Chapter, Section, figure, number, render, table
from raysys.report.sections_run import last, run_chapter
from raysys.report.sections_sweep import sweep_chapter, tuned_axes
from raysys.report.style import styled

log = logging.getLogger(__name__)

_COMPARED = {
    "val/contrastive": "contrastive loss (nats)",
    "probe/macro_ap": "probe/macro_ap",
    "val/top1_tie": "val/top1_tie",
    "codebook/hard_perplexity": "hard perplexity",
    "train/windows": "windows seen",
}


def write_report(directories: Sequence[str | Path], out: str | Path | None = None) -> Path:
    """Returns the path of the page, after writing it and, in a folder beside it, its tables as CSV.

    Args:
        directories: folders or URLs of runs and sweeps, in the order of the page.
        out: the HTML file on this machine; None writes report.html into the folder, or report-NAME-NAME.html beside several,
            and report-NAME.html into the working directory where one of them is a URL.

    Raises:
        ValueError: no folder, or one that is neither a run nor a sweep (naming the files looked for).
    """
    if not directories:
        raise ValueError("no folder given: name at least one run or sweep, e.g. results/base")
    folders = [read_folder(directory) for directory in directories]
    if "://" in str(out or ""):
        raise ValueError(f"--out {out} is a URL: name a file on this machine, and copy it there")
    out = Path(out).expanduser() if out is not None else _default_page(folders)
    runs = [folder for folder in folders if isinstance(folder, Run)]
    with styled():
        chapters = [run_chapter(folder) if isinstance(folder, Run) else sweep_chapter(folder) for folder in folders]
        appendix = [_comparison(runs)] if len(runs) > 1 else []
    appendix.append(glossary(runs=bool(runs), sweeps=len(runs) < len(folders)))
    tables = _write_tables(folders, out.with_name(out.stem + "_tables"))
    page = render(_title(chapters), _subtitle(tables), chapters, appendix)
    Location(out).write(page)
    log.info("report on %s written to %s (%.1f MB)", ", ".join(map(str, directories)), out, out.stat().st_size / 1e6)
    return out


def _default_page(folders: list[Run | Sweep]) -> Path:
    """A name that belongs to these folders alone, so that no other report is overwritten."""
    names = "-".join(folder.path.name for folder in folders)
    if not all(folder.path.is_local for folder in folders):
        return Path.cwd() / f"report-{names}.html"
    if len(folders) == 1:
        return Path(folders[0].path.path) / "report.html"
    return Path(folders[0].path.parent.path) / f"report-{names}.html"


def _title(chapters: list[Chapter]) -> str:
    return chapters[0].title if len(chapters) == 1 else f"Report on {len(chapters)} folders"


def _subtitle(tables: Path) -> str:
    return f"Written {time.strftime('%d %B %Y, %H:%M')}. The tables behind the figures lie beside this page in {tables.name}/."


def _comparison(runs: list[Run]) -> Section:
    names = _labels(runs)
    columns = ("run", *_COMPARED.values())
    rows = [(name, *(number(last(run.metrics, key)) for key in _COMPARED)) for name, run in names.items()]
    drawn = comparison_figure({name: run.metrics for name, run in names.items()})
    caption = (
        "The validation curves of all runs. The losses on the left compare only between runs with the same number of negatives, "
        "temperature and mask ratio; the probe on the right compares between any runs on the same data."
    )
    return Section(
        "The runs side by side", (table(columns, rows), figure(drawn, caption, "The runs have no validation curves."))
    )


def _labels(folders: Sequence[Run | Sweep]) -> dict[str, Run | Sweep]:
    """Folder names as labels, numbered where two are alike."""
    labels: dict[str, Run | Sweep] = {}
    for folder in folders:
        name = folder.path.name
        labels[name if name not in labels else f"{name} ({len(labels) + 1})"] = folder
    return labels


def _write_tables(folders: list[Run | Sweep], directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for label, folder in _labels(folders).items():
        stem = re.sub(r"[^\w.-]+", "_", label).strip("_")
        for name, frame in _tables(folder).items():
            frame.to_csv(directory / f"{stem}_{name}.csv", index=False)
    return directory


def _tables(folder: Run | Sweep) -> dict[str, pd.DataFrame]:
    if isinstance(folder, Run):
        usage = pd.DataFrame({f"step_{step}": counts for step, counts in folder.usage.items()})
        return {
            "metrics": folder.metrics.reset_index(),
            "code_usage": usage.rename_axis("code").reset_index(),
            "data": pd.DataFrame((folder.record.get("data") or {}).get("sets")),
        }
    axes, _ = tuned_axes(folder)
    return {"top10": top_rows(folder, axes), "importance": importance(folder, axes), "history": folder.history}
