"""The one tree of errors that Vitrine raises on purpose.

VitrineError
├── ConfigError            a setting, spec or mapping file is wrong; says the path in it
├── InputError             data handed to the platform is wrong; says file, column, rows
├── MissingStageError      a stage needs what an earlier one writes; says the command
├── GateError              a validation gate refused a table; says expectation and examples
├── LeakError              a feature was known only after its use
├── BundleError            a model bundle or index is incomplete, altered or does not match
├── FeatureStoreError      Feast or its stores failed or answered nonsense
├── StoreUnavailableError  Redis or another service does not answer
├── DeadlineError          a part of a request did not end in time
└── TrackingError          MLflow failed

ValueError stays for bad arguments of a function and assert for impossible states. A message says
what happened, where (ids, file, column), what was expected and what to do.
"""


class VitrineError(Exception):
    """Base of every error that Vitrine raises on purpose."""


class ConfigError(VitrineError):
    """A setting, funnel spec or mapping file is wrong."""


class InputError(VitrineError):
    """Data handed to the platform cannot be taken as it is."""


class MissingStageError(VitrineError):
    """A stage needs the output of an earlier one that is not there."""

    def __init__(self, what: str, where: object, command: str) -> None:
        super().__init__(f"{what} not found at {where}; run `{command}` first")


class GateError(VitrineError):
    """A validation gate refused a table."""


class LeakError(VitrineError):
    """A feature value was known only after the moment of its use."""


class BundleError(VitrineError):
    """A model bundle or index is incomplete, altered or does not match its partner."""


class FeatureStoreError(VitrineError):
    """Feast or one of its stores failed."""


class StoreUnavailableError(VitrineError):
    """A service such as Redis does not answer."""


class DeadlineError(VitrineError):
    """A part of a request did not end in time, or was not begun for want of it."""


class TrackingError(VitrineError):
    """MLflow failed."""
