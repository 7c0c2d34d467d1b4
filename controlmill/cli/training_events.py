"""Events of a training run as sentences for a terminal."""

from collections.abc import Callable, Mapping
from typing import Any

from rich.text import Text

Fields = Mapping[str, Any]


def sentence(name: str, fields: Fields) -> Text | None:
    """What to say of an event for good; None for those that matter for a moment only."""
    say = _SENTENCES.get(name)
    return None if say is None else say(fields)


def foreseen(fields: Fields) -> str:
    """What a forecast says; it holds until the next one, or until it has come."""
    return (
        f"sudden convergence expected around update {fields['expected']:,}, "
        f"between {fields['low']:,} and {fields['high']:,}"
    )


ENDS_FORECAST = frozenset({"control_following", "already_following", "restarted"})
"""Events after which a forecast says nothing any more."""


def _at(fields: Fields) -> str:
    return f"update {fields['update']:,}: "


def _onset(fields: Fields) -> Text:
    return Text(f"{_at(fields)}the hint is read, not followed yet (sensitivity {fields['sensitivity']:.2g})")


def _following(fields: Fields) -> Text:
    measured = f" (control gain {fields['gain']:.2f}, p {fields['p_value']:.1g})"
    return Text.assemble(_at(fields), ("sudden convergence: the hint is followed", "bold green"), measured)


def _already(fields: Fields) -> Text:
    return Text(f"{_at(fields)}the hint is followed from the start (control gain {fields['gain']:.2f})")


def _settled(fields: Fields) -> Text:
    interval = fields.get("ci95")
    bounds = "" if interval is None else f", 95 % between {interval[0]:,.0f} and {interval[1]:,.0f}"
    found = f"it converged at update {fields['convergence_update']:,.0f}{bounds}: {fields['label']}"
    return Text.assemble(_at(fields), f"the control gain has settled at {fields['gain']:.2f}; ", (found, "green"))


def _stalled(fields: Fields) -> Text:
    causes = f"; likely: {fields['causes']}" if fields.get("causes") else ""
    return Text(f"{_at(fields)}{fields['reason']}{causes}", "yellow")


def _action(fields: Fields) -> Text:
    return Text(f"{_at(fields)}{fields['action']}, because of {fields['because']}")


def _data(fields: Fields) -> Text:
    return Text(f"{fields['rows']:,} rows, {fields['updates']:,} updates; {fields['cached']}")


def _confirmed(fields: Fields) -> Text:
    verb = ("generated images confirm it", "bold green") if fields["confirmed"] else ("generated images lag behind", "")
    shown = (
        f": {fields['measure']} {fields['own']:.3f}, {fields['off']:.3f} without control (lift {fields['lift']:.2f})"
    )
    return Text.assemble(_at(fields), verb, shown)


def _unmeasured(fields: Fields) -> Text:
    return Text(f"controllability is not measured: {fields['reason']}", "yellow")


def _restarted(fields: Fields) -> Text:
    return Text(f"{_at(fields)}begins again from update 0, {fields['gradient_accumulation_steps']} batches per update")


_SENTENCES: dict[str, Callable[[Fields], Text]] = {
    "data": _data,
    "control_onset": _onset,
    "control_following": _following,
    "already_following": _already,
    "control_settled": _settled,
    "control_confirmed": _confirmed,
    "controllability_off": _unmeasured,
    "stalled": _stalled,
    "action": _action,
    "restarted": _restarted,
}
