"""Where the Data Docs and the results behind them lie, and how many runs are kept.

docs/
  index.html               the Data Docs of every gate
  gates.json               the last word of every gate (report.py)
  drift.html drift.png     how far features moved, linked from the first page (drift_page.py)
  drift_accepted.json      what the next feature build is compared with (drift.py)
  expectations/ validations/ static/   pages of the site
  store/expectations/ store/validations/   suites and results as JSON, which the site is rendered from
"""

import shutil
from pathlib import Path

from core.files import write_atomically

KEPT_RUNS = 3
"""Results per suite that stay in the store and on the site."""

DRIFT_PAGE, DRIFT_PLOT = "drift.html", "drift.png"
_LINK = (
    f'<p class="container-fluid px-5"><a href="{DRIFT_PAGE}">Drift of features against the last accepted build</a></p>'
)


def index_page(docs: Path) -> Path:
    """The site's first page."""
    return docs / "index.html"


def suites_folder(docs: Path) -> Path:
    """Where suites are stored."""
    return docs / "store" / "expectations"


def results_folder(docs: Path) -> Path:
    """Where results are stored, `<suite>/<gate>/<instant>/`."""
    return docs / "store" / "validations"


def link_drift(docs: Path) -> None:
    """Links the drift page, where there is one, from the first page, which every rendering makes anew."""
    page = index_page(docs)
    text = page.read_text()
    if (docs / DRIFT_PAGE).exists() and _LINK not in text:
        before, body, after = text.rpartition("</body>")
        write_atomically(page, f"{before}{_LINK}{body}{after}" if body else text + _LINK)


def forget_old_runs(docs: Path, kept: int = KEPT_RUNS) -> int:
    """The number of runs removed; the newest `kept` of every suite stay, in the store and on the site."""
    num_removed = 0
    for suite in results_folder(docs).glob("*/"):
        runs = sorted(suite.glob("*/*/"), key=lambda run: run.name, reverse=True)
        for run in runs[kept:]:
            shutil.rmtree(run)
            shutil.rmtree(docs / "validations" / suite.name / run.parent.name / run.name, ignore_errors=True)
            if not any(run.parent.iterdir()):
                run.parent.rmdir()
            num_removed += 1
    return num_removed
