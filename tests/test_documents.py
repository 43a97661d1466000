"""The documents agree with each other and with the configuration: links, keys, defaults, and numbers."""

import ast
import csv
import importlib.util
import json
import re
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from raysys.config import keys
from raysys.presets import base

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md")])
NOTEBOOKS = sorted(ROOT.glob("docs/notebooks/*.ipynb"))
SECTIONS = "data|optim|train|probe|search|loss|mask|model|head|finetune|augment"


def measurements() -> list[dict[str, str]]:
    with (ROOT / "docs" / "measurements.csv").open(newline="") as stream:
        return list(csv.DictReader(stream, strict=True))


def numbers(text: str) -> list[float]:
    """Numbers that are no part of a name, such as 1,234.5 but not the 100 of H100."""
    return [float(number.replace(",", "")) for number in re.findall(r"(?<![\w.,])\d[\d,]*(?:\.\d+)?", text)]


def test_every_measurement_says_when_where_and_how_much():
    rows = measurements()
    assert list(rows[0]) == ["date", "commit", "hardware", "command", "what", "number", "unit"]
    for row in rows:
        assert None not in row, f"too many columns: {row}"
        assert all(value and value.strip() for value in row.values()), row
        date.fromisoformat(row["date"])
        float(row["number"])


def test_a_thing_is_measured_once_on_each_hardware():
    seen = [(row["what"], row["hardware"]) for row in measurements()]
    assert sorted(seen) == sorted(set(seen))


def test_the_numbers_of_the_readme_are_measurements():
    known = {float(row["number"]) for row in measurements()}
    section = (ROOT / "README.md").read_text().split("## Results")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")][2:]
    told = [number for row in rows for cell in row.split("|")[2:] for number in numbers(cell)]
    assert len(told) > 10
    assert [number for number in told if number not in known] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text())
    assert [t for t in targets if "://" not in t and not (document.parent / t).exists()] == []


def test_the_readme_links_every_document():
    text = (ROOT / "README.md").read_text()
    documents = [*ROOT.glob("docs/*.md"), ROOT / "docs" / "measurements.csv"]
    assert [path.name for path in documents if f"](docs/{path.name})" not in text] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_keys_exist(document):
    text = document.read_text()
    flags = re.findall(rf"--((?:{SECTIONS})\.[\w.-]+)", text)
    spans = re.findall(rf"`((?:{SECTIONS})(?:\.[a-z_0-9]+)+)(?:=[^`]*)?`", text)
    told = {flag.replace("-", "_").replace(".no_", ".") for flag in flags}
    told |= {span for span in spans if not span.endswith((".md", ".py", ".safetensors"))}
    assert told - set(keys(base())) == set()


def test_configuration_tells_the_defaults_of_base():
    values = keys(base())
    text = (ROOT / "docs" / "configuration.md").read_text()
    rows = re.findall(r"^\| `([\w.]+)` \| (\S+) \|", text, re.MULTILINE)
    said = {key: default for key, default in rows if key in values}
    names = {None: "none", True: "on", False: "off"}
    assert len(said) > 20
    for key, default in said.items():
        value = values[key]
        if isinstance(value, int | float) and not isinstance(value, bool):
            assert float(default) == value, key
        elif value is None or isinstance(value, bool):
            assert default == names[value], key
        elif isinstance(value, str):
            assert default == value, key


def python_of(document: Path) -> str:
    """The Python in a document: cells of a notebook, or fenced blocks of Markdown."""
    if document.suffix == ".ipynb":
        cells = json.loads(document.read_text())["cells"]
        return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    return "\n".join(re.findall(r"```python\n(.*?)```", document.read_text(), re.DOTALL))


@pytest.mark.parametrize(
    "document", [*DOCUMENTS, *NOTEBOOKS, ROOT / "docs" / "analyse_sweep.ipynb"], ids=lambda path: path.name
)
def test_what_documents_import_is_there(document):
    for node in ast.walk(ast.parse(python_of(document))):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in ("model", "raysys"):
            module = importlib.util.find_spec(node.module)
            assert module, node.module
            for alias in node.names:
                defined = re.search(
                    rf"^(def|class) {alias.name}\b|^{alias.name}\b.*=", Path(module.origin).read_text(), re.M
                )
                assert defined or importlib.util.find_spec(f"{node.module}.{alias.name}"), f"{node.module}.{alias.name}"


def test_notebooks_are_short_and_hold_no_output():
    assert [path.stem for path in NOTEBOOKS] == ["finetune", "pick", "pretrain"]
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text())["cells"]
        assert len(cells) <= 12
        assert [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")] == []


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_run(notebook, tmp_path, own_ray):
    script = tmp_path / "notebook.py"
    script.write_text(python_of(notebook))
    environment = own_ray | {"MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    assert Path(done.stdout.splitlines()[-1]).name == "report.html"
