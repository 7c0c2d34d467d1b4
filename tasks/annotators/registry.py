"""Annotators by name: those that come with controlmill, those of installed packages, and one in a file of the user's.

The layer has the name that was asked for. Names of controlnet_aux's `Processor` are presets: `scribble_hed` is `hed`
with `scribble=true`, in a layer called `scribble_hed`, so that several variants fit into one dataset.

A package registers a class under the entry point group `controlmill.annotators`; a file is named `./file.py:Class`,
and its layer as the class says.
"""

from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from controlmill.config.base import validate
from controlmill.errors import ConfigError
from tasks.annotators import user_file
from tasks.annotators.base import NAME, Annotator

GROUP: Final = "controlmill.annotators"
_BUILT_IN: Final = {
    "canny": "tasks.annotators.canny:Canny",
    "hed": "tasks.annotators.hed:Hed",
    "lineart": "tasks.annotators.lineart:Lineart",
    "lineart_standard": "tasks.annotators.lineart_standard:LineartStandard",
    "midas": "tasks.annotators.midas:Midas",
    "openpose": "tasks.annotators.openpose.annotator:Openpose",
    "scribble": "tasks.annotators.scribble:Scribble",
    "segmentation": "tasks.annotators.segmentation.annotator:Segmentation",
    "mlsd": "tasks.annotators.mlsd:Mlsd",
    "normal_bae": "tasks.annotators.normal_bae:NormalBae",
    "normal_midas": "tasks.annotators.midas:NormalMidas",
}
PRESETS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "softedge_hed": ("hed", {}),
    "softedge_hedsafe": ("hed", {"safe": True}),
    "scribble_hed": ("hed", {"scribble": True}),
    "scribble_hedsafe": ("hed", {"safe": True, "scribble": True}),
    "depth_midas": ("midas", {}),
    "lineart_coarse": ("lineart", {"coarse": True}),
    "lineart_realistic": ("lineart", {}),
    "openpose_face": ("openpose", {"include_face": True}),
    "openpose_faceonly": ("openpose", {"include_body": False, "include_face": True}),
    "openpose_full": ("openpose", {"include_hand": True, "include_face": True}),
    "openpose_hand": ("openpose", {"include_body": False, "include_hand": True}),
}
"""Other names of an annotator, with options that are set unless they are given."""
_RESERVED: Final = frozenset({"source", "image", "failures", "caption"})


def names() -> list[str]:
    """Names of all annotators that `create` knows, sorted; none of them is imported."""
    return sorted({*_BUILT_IN, *PRESETS, *(point.name for point in entry_points(group=GROUP))})


def create(name: str, options: dict[str, Any], seed: int = 0) -> Annotator:
    """Construct the annotator `name` with its options, not set up.

    Raises:
        ConfigError: there is no such annotator, it cannot be imported, or an option of it is wrong.
    """
    found = find(name)
    _, preset = PRESETS.get(name, (name, {}))
    prefix = f"annotator_options.{name.rpartition(':')[2]}."
    made = found(validate(found.options_model, {**preset, **options}, prefix=prefix), seed)
    if not user_file.is_in_file(name):
        made.name = name
    return made


def find(name: str) -> type[Annotator]:
    """The class of an annotator.

    Raises:
        ConfigError: there is no such annotator, or it cannot be imported.
    """
    if user_file.is_in_file(name):
        found = _checked(name, user_file.load(name))
        if found.name in names():
            raise ConfigError(f"annotators: {name!r} calls its layer {found.name!r}, as another annotator is called")
        return found
    points = [point for point in entry_points(group=GROUP) if point.name == name]
    if name in _BUILT_IN or name in PRESETS:
        if points:
            raise ConfigError(f"annotators: {_package(points[0])} registers {name!r}, which controlmill has itself")
        points = [EntryPoint(name, _BUILT_IN[PRESETS[name][0] if name in PRESETS else name], GROUP)]
    if not points:
        raise ConfigError(f"annotators: there is no annotator {name!r}; there are {', '.join(names())}")
    if not NAME.fullmatch(name) or name in _RESERVED:
        raise ConfigError(f"annotators: {_package(points[0])} registers {name!r}, which cannot be the name of a layer")
    if len({point.value for point in points}) > 1:
        raise ConfigError(f"annotators: {' and '.join(map(_package, points))} both register {name!r}; uninstall one")
    try:
        loaded = points[0].load()
    except Exception as error:
        # importing somebody's package may raise anything, and it is no reason for a traceback of ours
        text = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"annotators: {name!r} of {_package(points[0])} cannot be imported: {text}") from error
    return _checked(name, loaded)


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.value


def _checked(name: str, found: object) -> type[Annotator]:
    if not (isinstance(found, type) and issubclass(found, Annotator)):
        raise ConfigError(f"annotators: {name!r} is not a subclass of tasks.annotators.base.Annotator")
    missing = [field for field in ("name", "version", "options_model") if not hasattr(found, field)]
    if missing or found.__abstractmethods__:
        raise ConfigError(f"annotators: {name!r} lacks {', '.join([*missing, *sorted(found.__abstractmethods__)])}")
    if found.name in _RESERVED:
        raise ConfigError(f"annotators: {name!r} calls its layer {found.name!r}, which every dataset has already")
    return found
