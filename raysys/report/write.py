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
from raysys.report.evaluations import Evaluation
from raysys.report.glossary import glossary
from raysys.report.page import Chapter, Section, render
from raysys.report.picked import Picked, counts_by_station, s_after_p
from raysys.report.sections_comparison import comparisons
from raysys.report.sections_evaluation import evaluation_chapter, tables
from raysys.report.sections_finetune import finetune_chapter, label_counts
from raysys.report.sections_picking import picking_chapter
from raysys.report.sections_run import run_chapter
from raysys.report.sections_sweep import sweep_chapter, tuned_axes
from raysys.report.style import styled

log = logging.getLogger(__name__)

Folder = Run | Sweep | Evaluation | Picked


def write_report(directories: Sequence[str | Path], out: str | Path | None = None) -> Path:
    """Returns the path of the page, after writing it and, in a folder beside it, its tables as CSV.

    Args:
        directories: folders or URLs of runs, sweeps, evaluations and picks, in the order of the page.
        out: the HTML file on this machine; None writes report.html into the folder, or report-NAME-NAME.html beside several,
            and report-NAME.html into the working directory where one of them is a URL.

    Raises:
        ValueError: no folder, or one that is no run, sweep, evaluation or picks (naming the files looked for).
    """
    if not directories:
        raise ValueError(
            "no folder given: name at least one run, sweep, evaluation or folder of picks, e.g. results/base"
        )
    folders = [read_folder(directory) for directory in directories]
    if "://" in str(out or ""):
        raise ValueError(f"--out {out} is a URL: name a file on this machine, and copy it there")
    out = Path(out).expanduser() if out is not None else _default_page(folders)
    with styled():
        chapters = [_chapter(folder) for folder in folders]
        appendix = comparisons({name: folder for name, folder in _labels(folders).items() if isinstance(folder, Run)})
    appendix.append(_glossary(folders))
    written = _write_tables(folders, out.with_name(out.stem + "_tables"))
    page = render(_title(chapters), _subtitle(written), chapters, appendix)
    Location(out).write(page)
    log.info("report on %s written to %s (%.1f MB)", ", ".join(map(str, directories)), out, out.stat().st_size / 1e6)
    return out


def _chapter(folder: Folder) -> Chapter:
    if isinstance(folder, Evaluation):
        return evaluation_chapter(folder)
    if isinstance(folder, Picked):
        return picking_chapter(folder)
    if isinstance(folder, Sweep):
        return sweep_chapter(folder)
    return run_chapter(folder) if folder.task == "pretrain" else finetune_chapter(folder)


def _glossary(folders: Sequence[Folder]) -> Section:
    return glossary(
        runs={folder.task for folder in folders if isinstance(folder, Run)},
        sweeps={folder.task for folder in folders if isinstance(folder, Sweep)},
        evaluations=any(isinstance(folder, Evaluation) for folder in folders),
        picks=any(isinstance(folder, Picked) for folder in folders),
    )


def _default_page(folders: list[Folder]) -> Path:
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


def _labels(folders: Sequence[Folder]) -> dict[str, Folder]:
    """Folder names as labels, numbered where two are alike."""
    labels: dict[str, Folder] = {}
    for folder in folders:
        name = folder.path.name
        labels[name if name not in labels else f"{name} ({len(labels) + 1})"] = folder
    return labels


def _write_tables(folders: list[Folder], directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for label, folder in _labels(folders).items():
        stem = re.sub(r"[^\w.-]+", "_", label).strip("_")
        for name, frame in _tables(folder).items():
            frame.to_csv(directory / f"{stem}_{name}.csv", index=False)
    return directory


def _tables(folder: Folder) -> dict[str, pd.DataFrame]:
    if isinstance(folder, Evaluation):
        return tables(folder)
    if isinstance(folder, Picked):
        return {"stations": counts_by_station(folder), "s_minus_p": s_after_p(folder.picks)}
    if isinstance(folder, Run) and folder.task != "pretrain":
        counts = label_counts(folder).get("by_dataset") or {}
        labels = [(name, *pair) for name, pair in counts.items()]
        return {
            "metrics": folder.metrics.reset_index(),
            "labels": pd.DataFrame(labels, columns=["dataset", "learned_from", "labelled"]),
            "data": pd.DataFrame((folder.record.get("data") or {}).get("sets")),
        }
    if isinstance(folder, Run):
        usage = pd.DataFrame({f"step_{step}": counts for step, counts in folder.usage.items()})
        return {
            "metrics": folder.metrics.reset_index(),
            "code_usage": usage.rename_axis("code").reset_index(),
            "data": pd.DataFrame((folder.record.get("data") or {}).get("sets")),
        }
    axes, _ = tuned_axes(folder)
    return {"top10": top_rows(folder, axes), "importance": importance(folder, axes), "history": folder.history}
