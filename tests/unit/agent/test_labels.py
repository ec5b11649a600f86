"""What machines are called in metrics."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ballonet.agent.labels import vm_labels
from ballonet.vms.observation import MachineId


def labels(*machines: tuple[str, str, int | None]) -> list[str]:
    return vm_labels([MachineId(kind, name, "", pid) for kind, name, pid in machines])


def test_a_name_stays_as_it_is_also_where_another_kind_has_it() -> None:
    assert labels(("qemu", "web", 1), ("ballonet", "web", 2)) == ["web", "web"]


def test_a_name_that_two_of_a_kind_share_has_the_process_s_number() -> None:
    assert labels(("qemu", "web", 1), ("qemu", "web", 2), ("qemu", "db", 3)) == [
        "web#1", "web#2", "db",
    ]  # fmt: skip


def test_a_name_that_looks_like_that_is_not_taken_for_it() -> None:
    found = labels(("qemu", "web", 1), ("qemu", "web", 2), ("qemu", "web#1", 3))
    assert (found[2], len(set(found))) == ("web#1", 3)


def test_a_label_is_printable_and_short() -> None:
    (label,) = labels(("qemu", "\udcff\x1b[2J" + "x" * 500, None))
    assert label.encode()
    assert (len(label), "\x1b" in label) == (128, False)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["qemu", "ballonet"]),
            st.text("a#12\udcff\x00", max_size=4),
            st.sampled_from([None, 1, 2]),
        )
    )
)
def test_no_two_of_a_kind_are_called_the_same(machines: list[tuple[str, str, int | None]]) -> None:
    found = labels(*machines)
    keys = [(kind, label) for (kind, _, _), label in zip(machines, found, strict=True)]
    assert len(set(keys)) == len(keys)
