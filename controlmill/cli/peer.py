"""The options of another program beside a command's own, so that its command lines can be pasted."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from controlmill.cli.values import read_flag


@dataclass(frozen=True, slots=True)
class Missing:
    """An option of the other program that the command does not have."""

    accepts: Callable[[str], bool]
    """Values that ask for what controlmill does anyway."""
    advice: str
    """Said for every other value."""
    is_flag: bool = False


@dataclass(frozen=True, slots=True)
class Peer:
    """Another program's options, as far as they differ in name or are not there."""

    missing: Mapping[str, Missing]
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Its name of an option to ours."""

    def refusals(self, given: Mapping[str, str]) -> list[str]:
        """One sentence for each given option without a counterpart whose value asks for something else."""
        return [
            f"{name}: {self.missing[name].advice} (got {value})"
            for name, value in given.items()
            if not self.missing[name].accepts(value)
        ]


def one_of(*values: str) -> Callable[[str], bool]:
    """Accepts these values."""
    return lambda value: value in values


def is_false(name: str) -> Callable[[str], bool]:
    """Accepts false, in any of its spellings."""
    return lambda value: not read_flag(name, value)


def anything(_: str) -> bool:
    """Accepts every value."""
    return True
