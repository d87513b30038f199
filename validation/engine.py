"""Great Expectations, behind one door: the only module that imports it.

Suites go in as `Suite`, frames as pandas; outcomes come back as plain values. Results and suites are stored
under `docs/store/`, and the Data Docs site is rendered from them. Nothing is sent anywhere: the context is
local, analytics and progress bars are off.
"""

import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from core.errors import GateError
from validation.docs_site import forget_old_runs, index_page, link_drift, results_folder, suites_folder
from validation.rules import Rule, Suite

with warnings.catch_warnings():
    # The library still imports a module that Python 3.11 deprecates.
    warnings.simplefilter("ignore", DeprecationWarning)
    import great_expectations as gx
    from great_expectations.data_context.types.base import DataContextConfig
    from great_expectations.exceptions import GreatExpectationsError
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration


@dataclass(frozen=True)
class Outcome:
    """What one rule found. `examples` are up to three offending values, `example_rows` their places in the frame."""

    rule: Rule
    is_met: bool
    num_unexpected: int
    observed: str
    examples: tuple[str, ...]
    example_rows: tuple[int, ...]


class Engine:
    """Runs suites over frames and keeps their results below `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        logging.getLogger("great_expectations").setLevel(logging.ERROR)
        self._context = gx.get_context(mode="ephemeral", project_config=_config(folder))
        self._frames = self._context.data_sources.add_pandas("workspace")
        self._validated: list[Any] = []

    def validate(
        self, suite: Suite, frame: pd.DataFrame, *, num_rows: int | None = None, run: str, at: datetime
    ) -> list[Outcome]:
        """One outcome per rule, in the suite's order; the result is stored for the Data Docs.

        `frame` holds every row that breaks a row rule; where it holds only some of the others, `num_rows` is
        the size of the whole table and the tolerated share is taken of that.
        """
        # Updating compares every expectation with every other; storing anew does not.
        (suites_folder(self._folder) / f"{suite.name}.json").unlink(missing_ok=True)
        stored = self._context.suites.add(_gx_suite(suite, _mostly(suite, len(frame), num_rows)))
        asset = self._frames.add_dataframe_asset(f"{suite.name}-{len(self._validated)}")
        batch = asset.add_batch_definition_whole_dataframe(suite.subject)
        definition = gx.ValidationDefinition(name=asset.name, data=batch, suite=stored)
        definition = self._context.validation_definitions.add(definition)
        with _quiet(suite.name):
            result = definition.run(
                batch_parameters={"dataframe": frame},
                result_format="SUMMARY",
                run_id=gx.RunIdentifier(run_name=run, run_time=at),
            )
        self._validated.append(suite.name)
        outcomes = {entry.expectation_config.meta["rule"]: _outcome(suite, entry) for entry in result.results}
        return [outcomes[place] for place in range(len(suite.rules))]

    def locate(self, rules: Sequence[Rule], frame: pd.DataFrame) -> list[NDArray[np.int64]]:
        """Per rule, the places in `frame` of all rows that break it."""
        if not rules:
            return []
        suite = _gx_suite(Suite("locate", "rows", tuple(rules)), 1.0)
        asset = self._frames.add_dataframe_asset(f"locate-{len(self._frames.assets)}")
        batch = asset.add_batch_definition_whole_dataframe("rows").get_batch({"dataframe": frame})
        with _quiet("locate"):
            result = batch.validate(
                suite, result_format={"result_format": "COMPLETE", "include_unexpected_rows": False}
            )
        found: dict[int, NDArray[np.int64]] = {}
        for entry in result.results:
            rows = np.asarray(entry.result.get("unexpected_index_list") or [], dtype=np.int64)
            found[entry.expectation_config.meta["rule"]] = rows
        return [found[place] for place in range(len(rules))]

    def build_docs(self) -> Path:
        """Path of the site's first page, rendered anew with the last few runs of every suite."""
        forget_old_runs(self._folder)
        with _quiet("Data Docs"):
            self._context.build_data_docs()
        link_drift(self._folder)
        return index_page(self._folder)


@contextmanager
def _quiet(what: str) -> Iterator[None]:
    """Keeps the library's warnings in and turns its errors into GateError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except GreatExpectationsError as error:
        raise GateError(f"Great Expectations failed on {what}: {error}") from error


def _config(folder: Path) -> Any:
    def files(path: Path) -> dict[str, Any]:
        return {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(path)}

    memory = {"class_name": "InMemoryStoreBackend"}
    return DataContextConfig(
        config_version=4.0,
        plugins_directory=None,
        config_variables_file_path=None,
        expectations_store_name="expectations_store",
        validation_results_store_name="validation_results_store",
        checkpoint_store_name="checkpoint_store",
        fluent_datasources={},
        stores={
            "expectations_store": {
                "class_name": "ExpectationsStore",
                "store_backend": files(suites_folder(folder)),
            },
            "validation_results_store": {
                "class_name": "ValidationResultsStore",
                "store_backend": files(results_folder(folder)),
            },
            "checkpoint_store": {"class_name": "CheckpointStore", "store_backend": memory},
            "validation_definition_store": {"class_name": "ValidationDefinitionStore", "store_backend": memory},
        },
        data_docs_sites={
            "gates": {
                "class_name": "SiteBuilder",
                "show_how_to_buttons": False,
                "store_backend": files(folder),
                "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
            }
        },
        analytics_enabled=False,
        progress_bars={"globally": False},
    )


def _mostly(suite: Suite, num_judged: int, num_rows: int | None) -> float:
    """Share of the judged rows that must pass so that at most `max_failing` of the whole table fails."""
    if not num_judged:
        return 1.0
    return max(0.0, 1.0 - suite.max_failing * (num_rows if num_rows is not None else num_judged) / num_judged)


def _gx_suite(suite: Suite, mostly: float) -> Any:
    return gx.ExpectationSuite(
        name=suite.name, expectations=[_expectation(r, i, mostly) for i, r in enumerate(suite.rules)]
    )


def _expectation(rule: Rule, place: int, mostly: float) -> Any:
    kwargs = dict(rule.kwargs)
    if rule.level == "row" and mostly < 1.0:
        kwargs["mostly"] = mostly
    meta = {
        "rule": place,
        "level": rule.level,
        "notes": {"format": "markdown", "content": [f"A row fails if {rule.reason}."]},
    }
    if rule.level == "table":
        meta["notes"] = {"format": "markdown", "content": [f"The stage stops if {rule.reason}."]}
    severity = "warning" if rule.level == "row" else "critical"
    return ExpectationConfiguration(type=rule.expectation, kwargs=kwargs, meta=meta, severity=severity).to_domain_obj()


def _outcome(suite: Suite, entry: Any) -> Outcome:
    rule = suite.rules[entry.expectation_config.meta["rule"]]
    if failure := _failure(entry.exception_info):
        raise GateError(
            f"suite {suite.name}: {rule.expectation} on {rule.column} could not be evaluated ({failure}); "
            "the column must be present and of the declared type"
        )
    found = entry.result
    values = found.get("partial_unexpected_list", [])[:3]
    return Outcome(
        rule,
        bool(entry.success),
        int(found.get("unexpected_count") or 0),
        _plain(found["observed_value"]) if "observed_value" in found else "",
        tuple(_plain(value) for value in values),
        tuple(int(row) for row in (found.get("partial_unexpected_index_list") or [])[:3]),
    )


def _failure(info: Any) -> str | None:
    """The message of what an expectation raised, from either shape in which the library reports it."""
    if info.get("raised_exception") is False:
        return None
    if "exception_message" in info:
        return str(info["exception_message"])
    raised = [entry for entry in info.values() if isinstance(entry, dict) and entry.get("raised_exception", True)]
    return str(raised[0].get("exception_message")) if raised else None


def _plain(value: Any) -> str:
    """The value as a person writes it, without the wrapper types of numpy and pandas."""
    if isinstance(value, tuple):
        return "(" + ", ".join(_plain(part) for part in value) + ")"
    if isinstance(value, np.datetime64):
        return str(np.datetime_as_string(value, unit="s")) + "Z"
    if isinstance(value, float | np.floating):
        return "null" if math.isnan(value) else f"{float(value):.6g}"
    return "null" if value is None or value is pd.NaT or value is pd.NA else str(value)
