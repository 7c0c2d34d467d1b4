"""What workers wrote: actors are heard, and the last lines of all are kept."""

from typing import Any

from flows.worker_output import WorkerOutput, listening


def lines(*text: str, actor: str = "", pid: int | str = 7) -> dict[str, Any]:
    return {"actor_name": actor, "pid": pid, "lines": list(text), "is_err": True}


def test_actors_are_heard_and_the_last_words_of_all_are_kept() -> None:
    heard: list[str] = []
    output = WorkerOutput(heard.append)
    output.take(lines("loading", "", ":actor_name:AnnotatorActor", actor="AnnotatorActor"))
    output.take(lines("Fatal Python error: Segmentation fault"))
    output.take(lines("its own business", pid="raylet"))
    output.take(lines("totals", actor="Board"))
    assert heard == ["AnnotatorActor pid=7: loading"]
    assert output.last_words() == [
        "AnnotatorActor pid=7: loading",
        "worker pid=7: Fatal Python error: Segmentation fault",
        "Board pid=7: totals",
    ]


def test_an_actor_that_says_the_same_for_every_image_is_not_heard_for_ever() -> None:
    heard: list[str] = []
    output = WorkerOutput(heard.append)
    for number in range(2000):
        output.take(lines(f"warning {number}", actor="AnnotatorActor"))
    assert len(heard) == 500
    assert output.last_words()[-1] == "AnnotatorActor pid=7: warning 1999"


def test_lines_come_from_ray_inside_of_the_block_only() -> None:
    from ray._private.ray_logging import global_worker_stdstream_dispatcher as dispatcher

    heard: list[str] = []
    with listening(heard.append):
        dispatcher.emit(lines("inside", actor="CaptionActor"))
    dispatcher.emit(lines("outside", actor="CaptionActor"))
    assert heard == ["CaptionActor pid=7: inside"]
