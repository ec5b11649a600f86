"""Every input in every state of a hint round, and what the driver is told of it."""

import pytest
from tests.support.clock import FakeClock

from ballonet.balloon.facts import Fact, HintLeaseEnded, HintRoundChanged, Observers
from ballonet.device.hint_round import HintRound, HintState
from ballonet.virtio.hint_ids import CMD_ID_DONE, CMD_ID_MIN, CMD_ID_STOP

STOP, REQUESTED, START, DONE = HintState
FIRST_ID = CMD_ID_MIN + 1
LEASE_S = 60.0


class Watched(HintRound):
    """A round, and what the driver and observers were told."""

    def __init__(self, clock: FakeClock | None = None) -> None:
        self.announced = 0
        self.facts: list[Fact] = []
        observers = Observers()
        observers.add(self.facts.append)
        super().__init__(clock or FakeClock(), observers, self._announced)

    def _announced(self) -> None:
        self.announced += 1


def in_state(state: HintState) -> Watched:
    made = Watched()
    made.state = state
    made.cmd_id = FIRST_ID
    return made


def apply(machine: HintRound, event: str) -> None:
    match event:
        case "begin":
            machine.begin(LEASE_S)
        case "stop":
            machine.stop(LEASE_S)
        case "done":
            machine.done()
        case "reset":
            machine.reset()
        case "its id":
            machine.on_command(machine.cmd_id)
        case "an older id":
            machine.on_command(machine.cmd_id - 1)
        case "STOP":
            machine.on_command(CMD_ID_STOP)
        case _:
            machine.on_command(CMD_ID_DONE)


# event: the state it leads to from STOP, REQUESTED, START, DONE; and whether the driver is told.
TABLE = {
    "begin": ((REQUESTED, REQUESTED, REQUESTED, REQUESTED), (True, True, True, True)),
    "stop": ((STOP, STOP, STOP, STOP), (False, True, True, True)),
    "done": ((DONE, DONE, DONE, DONE), (True, True, True, False)),
    "reset": ((STOP, DONE, DONE, DONE), (False, True, True, False)),
    "its id": ((STOP, START, STOP, DONE), (False, False, False, False)),
    "an older id": ((STOP, REQUESTED, STOP, DONE), (False, False, False, False)),
    "STOP": ((STOP, REQUESTED, STOP, DONE), (False, False, False, False)),
    "DONE": ((STOP, REQUESTED, STOP, DONE), (False, False, False, False)),
}


@pytest.mark.parametrize("event", TABLE)
@pytest.mark.parametrize("place", range(4), ids=[state.name for state in HintState])
def test_every_event_in_every_state(event: str, place: int) -> None:
    machine = in_state(tuple(HintState)[place])
    before = machine.state
    apply(machine, event)
    states, told = TABLE[event]
    assert machine.state is states[place]
    assert machine.announced == told[place]
    if machine.state is not before or event == "begin":
        assert machine.facts == [HintRoundChanged(machine.state.name, machine.cmd_id)]
    else:
        assert machine.facts == []


@pytest.mark.parametrize(
    ("state", "shown"), [(STOP, 0), (REQUESTED, FIRST_ID), (START, FIRST_ID), (DONE, 1)]
)
def test_the_driver_reads_the_id_as_long_as_the_round_runs(state: HintState, shown: int) -> None:
    assert in_state(state).shown_cmd_id == shown


def test_each_round_has_an_id_of_its_own_and_counting_starts_again_after_the_last() -> None:
    machine = Watched()
    machine.begin(LEASE_S)
    assert machine.cmd_id == FIRST_ID
    machine.begin(LEASE_S)
    assert machine.cmd_id == FIRST_ID + 1
    machine.cmd_id = 0xFFFF_FFFF
    machine.begin(LEASE_S)
    assert machine.cmd_id == CMD_ID_MIN
    assert machine.shown_cmd_id >= 2


def test_words_of_an_older_round_do_not_start_the_newer_one() -> None:
    machine = Watched()
    machine.begin(LEASE_S)
    older = machine.cmd_id
    machine.on_command(older)
    machine.stop(LEASE_S)
    machine.begin(LEASE_S)
    for word in (CMD_ID_STOP, older):
        machine.on_command(word)
        assert machine.state is REQUESTED
    machine.on_command(machine.cmd_id)
    assert machine.state is START


def test_a_repeated_id_does_not_start_a_finished_round_again() -> None:
    machine = Watched()
    machine.begin(LEASE_S)
    machine.on_command(machine.cmd_id)
    machine.on_command(CMD_ID_STOP)
    machine.on_command(machine.cmd_id)
    assert machine.state is STOP


def test_a_migration_that_is_silent_for_too_long_loses_its_lease() -> None:
    clock = FakeClock()
    machine = Watched(clock)
    machine.begin(LEASE_S)
    clock.advance(50)
    machine.stop(LEASE_S)  # it lives: the lease begins anew
    clock.advance(50)
    machine.end_if_expired()
    assert machine.state is STOP
    machine.heard()
    clock.advance(50)
    machine.end_if_expired()
    assert machine.state is STOP
    clock.advance(11)
    machine.facts.clear()
    machine.end_if_expired()
    assert machine.state is DONE
    assert machine.facts == [
        HintLeaseEnded(machine.cmd_id),
        HintRoundChanged("DONE", machine.cmd_id),
    ]
    machine.heard()  # too late
    assert machine.deadline_ns is None
    machine.end_if_expired()
    assert len(machine.facts) == 2


def test_rounds_of_another_device_are_over_and_the_next_id_is_above_theirs() -> None:
    machine = Watched()
    machine.go_on_after(FIRST_ID + 41)
    assert machine.shown_cmd_id == CMD_ID_DONE
    assert machine.announced == 1
    machine.begin(LEASE_S)
    assert machine.cmd_id == FIRST_ID + 42


def test_a_reset_between_two_rounds_lets_the_driver_have_its_pages() -> None:
    machine = Watched()
    machine.begin(LEASE_S)
    machine.stop(LEASE_S)
    machine.reset()
    assert machine.shown_cmd_id == CMD_ID_DONE
    assert machine.deadline_ns is None
