"""Documentation that is generated cannot go stale, and what it names exists."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from controlmill.cli.main import COMMANDS
from controlmill.cli.settings import assemble
from controlmill.config import (
    AnnotateConfig,
    BuildConfig,
    CaptionConfig,
    EncodeConfig,
    RetryConfig,
    SampleConfig,
    TrainConfig,
)
from controlmill.reasons import Reason
from tasks.annotators.registry import create

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_generated_blocks_are_up_to_date(generate: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.run(check=True) == 0, capsys.readouterr().out


def test_every_block_stands_somewhere(generate: ModuleType) -> None:
    used = {name for page in generate.PAGES for _, name, _ in generate.BLOCK.findall(page.read_text(encoding="utf-8"))}
    assert used == set(generate.BLOCKS)


def test_a_stale_block_is_noticed(
    generate: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- generated: reasons -->\nold\n<!-- end of reasons -->\nafter\n")
    monkeypatch.setattr(generate, "ROOT", tmp_path)
    monkeypatch.setattr(generate, "PAGES", [page])
    assert generate.run(check=True) == 1
    assert capsys.readouterr().out == "page.md: out of date; run python docs/generate.py\n"
    assert "old" in page.read_text()
    assert generate.run(check=False) == 0
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "| `timeout` |" in text
    assert generate.run(check=True) == 0


def test_every_option_reason_and_command_is_in_the_reference() -> None:
    options = (ROOT / "docs/reference/options.md").read_text()
    for model in (BuildConfig, AnnotateConfig, CaptionConfig, RetryConfig, TrainConfig):
        for field in model.model_fields:
            assert f"| `{field}` |" in options, field
    reasons = (ROOT / "docs/reference/reasons.md").read_text()
    assert all(f"| `{reason.value}` |" in reasons for reason in Reason)
    commands = (ROOT / "docs/reference/commands.md").read_text()
    assert all(f"  {name} " in commands for name in COMMANDS)


def test_options_in_prose_exist() -> None:
    models = (BuildConfig, AnnotateConfig, CaptionConfig, EncodeConfig, RetryConfig, SampleConfig, TrainConfig)
    known = {field for model in models for field in model.model_fields}
    others = {
        "json",
        "verify",
        "plot",
        "contact_sheet",
        "num_rows",
        "help",
        "traceback",
        "log_format",
        "version",
        "out",
    }
    others |= {"layout", "dashboard_host", "head", "sync"}  # of export-model, of Ray, of a benchmark
    others |= {"address", "env", "with_code", "no_wait", "submission_id", "follow"}  # of submit and jobs
    theirs = {"output_format", "name", "no_name", "no_preflight", "pool", "all", "type"}
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        prose = re.sub(r"<!-- generated: (\S+) -->.*?<!-- end of \1 -->", "", page.read_text(), flags=re.DOTALL)
        for name in re.findall(r"(?<![\w-])--([a-z][a-z0-9_-]+)", prose):
            assert name.replace("-", "_") in known | others | theirs, f"{page.name}: --{name}"


def test_the_example_configuration_is_valid() -> None:
    config = assemble(BuildConfig, [str(ROOT / "examples" / "dataset.yaml"), "image_size=512"], {})
    assert config.image_size == 512
    canny = create("canny", config.annotator_options["canny"], config.seed)
    assert canny.recipe() == {"low_threshold": [50, 120], "high_threshold": [150, 250], "seed": 0}


def test_every_page_is_in_the_navigation() -> None:
    listed = set(re.findall(r"[\w/-]+\.md", str(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])))
    assert listed == {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
