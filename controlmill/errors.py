"""The error tree of controlmill. Nothing else reaches the user of the command line.

    ControlmillError                 exit code 1
    ├── ConfigError                  2  an option is unknown, has a wrong type, or contradicts another
    ├── SourceError                  3
    │   ├── SourceMissingError       3  the URL list or folder is not there, or cannot be read
    │   ├── SourceEmptyError         3  there is not one row in it
    │   └── SourceChangedError       3  it is not the list that the dataset was started from
    ├── StorageError                 4
    │   ├── DatasetMissingError      4  no dataset at this place
    │   ├── FolderLockedError        4  another controlmill writes to it
    │   ├── DatasetMismatchError     4  it was built with other options, or by a newer version
    │   ├── CorruptShardError        4  a file does not match its commit record
    │   └── StorageWriteError        4  disk full, no permission, read-only
    ├── EngineError                  5
    │   ├── EngineStartError         5  Ray or the Prefect server did not start
    │   ├── EnvironmentUnusableError 5  an isolated Python environment is not there, or could not be made
    │   ├── WorkerLostError          5  a worker died more often than it may
    │   └── DeviceLostError          5  a GPU answers this process with errors only, whatever it is asked for
    ├── NetworkOutageError           6  this machine has lost its network; no row was marked as failed
    ├── WeightsError                 7
    │   ├── WeightsMissingError      7  weights are neither on this machine nor to be had
    │   └── WeightsUnusableError     7  the file is not the one that was asked for, or holds something else
    ├── RunError                     8
    │   ├── RunUnusableError         8  what a training run left is not there, cannot be read, or is broken
    │   ├── PreflightError           8  data, hints, gradients or memory are not as training needs them
    │   ├── ReadBackError            8  generated images cannot be read back by the dataset's annotator
    │   └── NonFiniteLossError       8  the loss became NaN or infinite
    └── InterruptedRunError        130  Ctrl-C or a termination signal

Errors are caught by cause. A failure of one row is never an exception outside of its shard: it is a value with a
`controlmill.reasons.Reason`.
"""

from typing import ClassVar


class ControlmillError(Exception):
    """Base of every error that controlmill raises on purpose; `str()` of it is one line for a person."""

    exit_code: ClassVar[int] = 1


class ConfigError(ControlmillError):
    """An option is unknown, has a wrong type, or contradicts another one."""

    exit_code = 2


class SourceError(ControlmillError):
    """The source of a dataset cannot be used."""

    exit_code = 3


class SourceMissingError(SourceError):
    """The URL list, folder or column is not there, or cannot be read."""


class SourceEmptyError(SourceError):
    """The source holds not one row."""


class SourceChangedError(SourceError):
    """The source is not the one that the dataset was started from."""


class StorageError(ControlmillError):
    """A dataset cannot be read or written."""

    exit_code = 4


class DatasetMissingError(StorageError):
    """There is no dataset at this place."""


class FolderLockedError(StorageError):
    """Another controlmill process is writing to this dataset or run."""


class DatasetMismatchError(StorageError):
    """The dataset was built with other options or by a newer version."""


class CorruptShardError(StorageError):
    """A file does not match its commit record."""


class StorageWriteError(StorageError):
    """Disk full, no permission, read-only file system."""


class EngineError(ControlmillError):
    """Ray or Prefect failed, not the work."""

    exit_code = 5


class EngineStartError(EngineError):
    """Ray or the Prefect server did not start."""


class EnvironmentUnusableError(EngineError):
    """An isolated Python environment is not there, was made for other pins, or could not be made."""


class WorkerLostError(EngineError):
    """A worker died more often than it may."""


class DeviceLostError(EngineError):
    """A GPU answers this process with errors only: it must end, and another one may use the GPU again."""


class NetworkOutageError(ControlmillError):
    """This machine has lost its network; no row was marked as failed."""

    exit_code = 6


class WeightsError(ControlmillError):
    """The weights of a network cannot be used."""

    exit_code = 7


class WeightsMissingError(WeightsError):
    """Weights are neither on this machine nor to be had."""


class WeightsUnusableError(WeightsError):
    """The file is not the one that was asked for, or holds something else than these weights."""


class RunError(ControlmillError):
    """A training run failed, or what it left cannot be used."""

    exit_code = 8


class RunUnusableError(RunError):
    """What a training run left is not there, cannot be read, or is broken."""


class PreflightError(RunError):
    """Data, hints, gradients or memory are not as training needs them."""


class ReadBackError(RunError):
    """Generated images cannot be read back by the dataset's annotator."""


class NonFiniteLossError(RunError):
    """The loss became NaN or infinite."""


class InterruptedRunError(ControlmillError):
    """Ctrl-C or a termination signal ended the run."""

    exit_code = 130
