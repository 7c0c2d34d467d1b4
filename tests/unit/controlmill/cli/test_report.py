"""The page of a run: what it says, that it needs nothing else, and that nothing in a run can break it."""

import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import fsspec
import pytest
from PIL import Image

from controlmill.cli.main import main
from controlmill.testing.probe_curves import evaluations
from controlmill.testing.training_set import write_training_set

VOID = {"meta", "img", "source", "br"}


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_run(run: Path, dataset: str, *, level: float = 0.5) -> None:
    """A run as training leaves it, with events that say what is in `level`."""
    curve = evaluations(range(0, 2001, 40), lambda update: level / (1 + math.exp((1000 - update) / 50)))
    write_lines(
        run / "probe.jsonl",
        [
            {"update": one.update, "loss_right": one.right, "loss_wrong": one.wrong,
             "residual_sensitivity": min(1.0, math.exp((one.update - 950) / 110)) * level}
            for one in curve
        ],
    )  # fmt: skip
    write_lines(
        run / "metrics.jsonl",
        [{"update": update, "samples_seen": 16 * update, "loss": 0.1} for update in range(1, 2001)],
    )
    config = {
        "train_data_dir": dataset, "condition": ["canny"], "learning_rate": 3e-4, "output_dir": str(run),
        "pretrained_model_name_or_path": "s3://key:hidden@bucket/base", "webhook_url": "https://hidden",
        "probe_steps": 40, "lr_scheduler": "<script>alert(1)</script>",
    }  # fmt: skip
    (run / "config.json").write_text(json.dumps(config))


def write_what_happened(run: Path) -> None:
    write_lines(
        run / "events.jsonl",
        [
            {"event": "control_following", "update": 920, "gain": 0.1, "p_value": 1e-6},
            {"event": "action", "update": 920, "action": "accumulate: 4", "because": "control_following"},
            {"event": "control_confirmed", "update": 920, "confirmed": True, "measure": "canny_f1",
             "own": 0.31, "other": 0.05, "off": 0.06, "lift": 0.4},
            {"event": "stalled", "update": 40, "reason": "<b>late</b>", "causes": ["one", "two"]},
            {"event": "of_tomorrow", "update": 41, "number": 0.123456},
        ],
    )  # fmt: skip
    write_lines(
        run / "controllability.jsonl",
        [
            {"update": update, "measure": "canny_f1", "mean_own": 0.05, "mean_other": 0.05, "off": 0.05, "real": 0.9}
            for update in (0, 920, 2000)
        ],
    )
    for update in (0, 440, 1400, 1600, 2000):
        (run / "samples").mkdir(exist_ok=True)
        Image.new("RGB", (24, 24), (update % 256, 0, 0)).save(run / "samples" / f"{update:06d}.png")


class Page(HTMLParser):
    """Checks that elements are closed in order, and collects what they refer to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.references: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "srcset", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, _attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_training_set(tmp_path_factory.mktemp("set"), num_rows=12, rows_per_shard=6)


def test_the_whole_story(tmp_path: Path, dataset: str, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = tmp_path / "run", tmp_path / "report.html"
    write_run(run, dataset)
    write_what_happened(run)
    assert main(["report", str(run), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"report: {out}\n"
    written = out.read_text()
    page = Page(written)
    assert "script" not in page.tags
    assert all(reference.startswith("data:image/") for reference in page.references)
    assert "hidden" not in written.replace('aria-hidden="true"', "")
    assert "Convergence at update 1,0" in page.text
    assert ": sudden." in page.text
    assert "Generated images confirm it (update 920; canny_f1, own hint 0.310, another row's hint 0.050" in page.text
    assert re.findall(r"update [0-9,]+, (?:before|at the sudden|the last)", page.text) == [
        "update 440, before", "update 1,400, at the sudden", "update 2,000, the last",
    ]  # fmt: skip
    assert "It was detected at update " in page.text
    assert re.search(r"[+-]\d+% (?:in|out)side", page.text)
    assert "accumulate: 4, because of control_following" in page.text
    assert "<b>late</b>; likely: one | two" in page.text
    assert "number 0.1235" in page.text
    assert "None of 12 planned rows failed." in page.text
    assert "disc on a" in page.text
    assert "<script>alert(1)</script>" in page.text
    assert "torch" in page.text
    # four plots (light, dark, wide, narrow), three grids, eight rows of two pictures
    assert len(page.references) == 4 + 3 + 8 * 2


def test_what_is_not_there_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    write_run(run, str(tmp_path / "gone"), level=0.0)
    assert main(["report", str(run)]) == 0
    page = Page((run / "report.html").read_text())
    assert "No convergence: the largest gain is 0.0" in page.text
    assert "None was written." in page.text
    assert "Samples" not in page.text
    assert "is no controlmill dataset" in page.text
    assert "Give its present place with --train-data-dir." in page.text
    (run / "probe.jsonl").unlink()
    assert main(["report", str(run)]) == 0
    assert "This run has no probe" in Page((run / "report.html").read_text()).text
    assert "error" not in capsys.readouterr().err


def test_a_run_on_another_file_system_that_began_again(tmp_path: Path, dataset: str) -> None:
    run = tmp_path / "run"
    write_run(run, "elsewhere")
    restart = {"at_update": 920, "gradient_accumulation_steps": 4, "before": 1, "launch": "", "moved": True}
    (run / "restart.json").write_text(json.dumps(restart))
    write_run(run / "attempt-1", "elsewhere")
    memory = fsspec.filesystem("memory")
    memory.put(str(run), "/report-test/run", recursive=True)
    try:
        out = tmp_path / "out.html"
        assert main(["report", "memory://report-test/run", "--out", str(out), "--train-data-dir", dataset]) == 0
        page = Page(out.read_text())
    finally:
        memory.rm("/report-test", recursive=True)
    assert "began again from update 0 with gradient_accumulation_steps 4 instead of 1" in page.text
    assert re.search(r"Of the first attempt, kept in attempt-1/: Convergence at update 1,0\d\d", page.text)
    assert "None of 12 planned rows failed." in page.text


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 8
    assert capsys.readouterr().err == f"error: {tmp_path} is no run of controlmill train: it has no config.json\n"
    assert main(["report", str(tmp_path), "--out", "page.pdf"]) == 2
    assert "--out: give a file that ends in .html" in capsys.readouterr().err
    assert main(["report", "one", "two"]) == 2
    (tmp_path / "config.json").write_text("{")
    assert main(["report", str(tmp_path)]) == 8
    assert "cannot read the options of the run" in capsys.readouterr().err


def test_pictures_are_small() -> None:
    from controlmill.cli.page.dataset_parts import _picture

    large = io.BytesIO()
    Image.effect_noise((900, 600), 80).convert("RGB").save(large, "PNG")
    assert len(_picture(large.getvalue(), "image")) < 40_000 < len(large.getvalue())
    assert "no canny" in _picture(None, "canny")
