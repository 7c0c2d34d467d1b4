"""The tree in the docstring is the tree in the code."""

import re

from controlmill import errors


def test_the_drawn_tree_is_the_real_one() -> None:
    drawn = []
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.fullmatch(r"    ([ │├└─]*)(\w+Error)\s+(?:exit code )?(\d+)(?: .*)?", line)
        if match:
            level = len(match[1]) // 4
            above = [*above[:level], match[2]]
            drawn.append((match[2], above[level - 1] if level else "Exception", int(match[3])))
    real = [
        (name, value.__base__.__name__, value.exit_code)
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.ControlmillError)
    ]
    assert drawn == real
