from controlmill.config import EngineOptions
from flows.crews import crews


def test_a_run_without_networks_has_none_and_needs_no_gpu() -> None:
    assert crews([], None, EngineOptions(device="cuda")) == {}
