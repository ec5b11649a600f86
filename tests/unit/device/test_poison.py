"""When a zero page may take the place of a page the guest calls free."""

from ballonet.device.poison import PagePoison

POISON = 0xAAAAAAAA


def allows(poison: PagePoison) -> bool:
    poison.negotiated = True
    return poison.allows_discard()


def test_a_driver_that_did_not_accept_poison_expects_nothing_of_free_pages() -> None:
    poison = PagePoison()
    assert poison.allows_discard()
    poison.write(POISON, alone=True)
    assert poison.allows_discard()


def test_a_value_that_was_never_written_forbids_it() -> None:
    assert not allows(PagePoison())


def test_zero_allows_it_and_anything_else_forbids_it() -> None:
    poison = PagePoison()
    poison.write(0, alone=True)
    assert allows(poison)
    for value in (POISON, 1, 0xAA000000):
        poison.write(value, alone=True)
        assert not allows(poison)
    poison.write(0, alone=True)
    assert allows(poison)


def test_zero_counts_when_a_front_end_writes_the_whole_space_for_it() -> None:
    poison = PagePoison()
    poison.write(0, alone=False)
    assert allows(poison)


def test_after_hibernation_a_poisoning_guest_is_still_one() -> None:
    poison = PagePoison()
    poison.write(POISON, alone=True)
    poison.reset()
    assert poison.value == 0
    assert not allows(poison)
    poison.write(0, alone=False)  # `actual` was written, and the rest of the space with it
    assert not allows(poison)
    poison.write(0, alone=True)
    assert allows(poison)


def test_the_next_guest_begins_afresh() -> None:
    poison = PagePoison()
    poison.write(POISON, alone=True)
    poison.forget_guest()
    poison.write(0, alone=False)
    assert allows(poison)
