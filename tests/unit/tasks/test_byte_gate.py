import asyncio

from tasks.byte_gate import ByteGate

KIB = 1024


async def _hold(gate: ByteGate, num_bytes: int, inside: list[int], leave: asyncio.Event) -> None:
    async with gate.hold() as held:
        held.settle(num_bytes)
        inside.append(num_bytes)
        await leave.wait()
        inside.remove(num_bytes)


async def _settled() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


async def test_work_waits_for_room_and_goes_on_when_there_is() -> None:
    gate = ByteGate(1000 * KIB)  # the first guess is 256 KiB an image
    inside: list[int] = []
    leave = [asyncio.Event() for _ in range(6)]
    running = [asyncio.create_task(_hold(gate, 400 * KIB, inside, event)) for event in leave]
    await _settled()
    assert 1 <= len(inside) <= 3
    for event in leave:
        event.set()
    await asyncio.gather(*running)
    assert inside == []


async def test_one_image_may_always_pass_however_large() -> None:
    gate = ByteGate(10)
    inside: list[int] = []
    leave = asyncio.Event()
    leave.set()
    await asyncio.gather(*(_hold(gate, 50_000_000, inside, leave) for _ in range(5)))
    assert inside == []


async def test_small_images_let_more_in_than_the_first_guess() -> None:
    gate = ByteGate(512 * KIB)
    inside: list[int] = []
    leave = asyncio.Event()
    leave.set()
    for _ in range(60):
        await _hold(gate, 1 * KIB, inside, leave)
    blocked = asyncio.Event()
    running = [asyncio.create_task(_hold(gate, 1 * KIB, inside, blocked)) for _ in range(40)]
    await _settled()
    assert len(inside) > 10
    blocked.set()
    await asyncio.gather(*running)


async def test_a_cancelled_waiter_does_not_swallow_the_turn_of_the_next() -> None:
    gate = ByteGate(256 * KIB)
    inside: list[int] = []
    leave = asyncio.Event()
    first = asyncio.create_task(_hold(gate, 256 * KIB, inside, leave))
    await _settled()
    waiting = asyncio.create_task(_hold(gate, 1, inside, leave))
    last = asyncio.create_task(_hold(gate, 2, inside, leave))
    await _settled()
    assert inside == [256 * KIB]
    waiting.cancel()
    await _settled()
    leave.set()
    await asyncio.gather(first, last)
    assert waiting.cancelled()
