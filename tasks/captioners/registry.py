"""Captioners by name."""

from controlmill.config import CaptionOptions
from controlmill.errors import ConfigError
from tasks.captioners.base import Captioner
from tasks.captioners.blip import Blip
from tasks.captioners.lavis import Lavis
from tasks.captioners.model import find_model
from tasks.environments import require

_KINDS: dict[str, type[Captioner]] = {"blip": Blip, "lavis": Lavis}


def create(options: CaptionOptions) -> Captioner:
    """Construct the captioner that the options name, its weights found and hashed, not loaded.

    Raises:
        ConfigError: an option of drawn words is given, and words are not drawn.
        WeightsError: the weights are not there, or are not those of a BLIP captioner.
        EnvironmentUnusableError: the captioner needs an environment of its own which is not there.
    """
    for name in () if options.do_sample else ("top_p", "temperature"):
        value = getattr(options, name)
        if value != CaptionOptions.model_fields[name].default:
            raise ConfigError(f"{name}: {value:g} is for drawn words; leave it out, or add do_sample=true")
    kind = _KINDS[options.captioner]
    if issubclass(kind, Lavis):
        require(kind.environment)
    return kind(options, find_model(options.model))
