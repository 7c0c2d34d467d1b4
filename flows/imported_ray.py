"""Ray reads some of its environment at its import, which for a deployment's flow comes before its options."""

import os
import sys
from typing import Any


def is_connected() -> bool:
    """Whether this process is in a Ray, whose environment is settled."""
    return "ray" in sys.modules and bool(sys.modules["ray"].is_initialized())


def read_environment_again() -> None:
    """Have Ray's driver see what was set since; the processes that it starts read their environment anew.

    `_node_ip_address` of `ray.init` does not help: Ray 2.60 takes a loopback address there for one that others reach.
    """
    from ray import _raylet
    from ray._private import ray_constants

    ray_constants.ENABLE_RAY_CLUSTER = os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR].lower() in ("1", "true")
    native: Any = _raylet
    native.Config.initialize("")
    native.AuthenticationTokenLoader.instance().reset_cache()
