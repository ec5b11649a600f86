"""A VMM that loses its connection, or leaves, and is there again at once."""

from __future__ import annotations

import os
import struct
import time

import pytest
from tests.integration.device_under_test import SECONDS, Device
from tests.support.front_end import FrontEnd
from tests.support.guest_memory import PAGE_BYTES
from tests.support.scripts import reconnect_qemu, start_qemu
from tests.support.wait import wait_until
from tests.support.wire import Req

ROUNDS = 200


def test_a_vmm_that_hangs_up_with_messages_unread_and_comes_again_is_served(
    device: Device,
) -> None:
    for _ in range(ROUNDS):
        with FrontEnd.connect(device.path) as first:
            for i in range(20):
                first.wire.send(Req.SET_VRING_NUM, struct.pack("=II", i % 5, 128), need_reply=False)
        with FrontEnd.connect(device.path) as second:
            assert second.get_features()


def test_a_vmm_that_shuts_its_side_down_and_comes_again_is_served(device: Device) -> None:
    with FrontEnd.connect(device.path) as first:
        assert first.get_features()
        first.wire.shut_down()
        with FrontEnd.connect(device.path) as second:
            assert second.get_features()


def test_what_a_vmm_said_before_it_hung_up_is_still_obeyed(device: Device) -> None:
    for pages in range(1, ROUNDS // 4):
        with start_qemu(device) as guest:
            guest.inflate([guest.free_range()[0]])
            guest.write_actual(pages)  # nothing answers it
            reconnect_qemu(device.path, guest)
            assert guest.read_actual() == pages


def test_the_same_guest_behind_a_new_connection_still_has_its_balloon(device: Device) -> None:
    with start_qemu(device) as guest:
        guest.inflate([guest.free_range()[0]])
        guest.write_actual(8192)
        for _ in range(3):
            reconnect_qemu(device.path, guest)
            assert device.status().actual_pages == 8192
    device.wait_until_free()
    assert device.status().actual_pages == 0


def test_another_guest_behind_a_new_connection_has_an_empty_balloon(device: Device) -> None:
    with start_qemu(device) as guest:
        guest.inflate([guest.free_range()[0]])
        guest.write_actual(8192)
    with start_qemu(device) as guest:
        guest.read_num_pages()
        assert device.status().actual_pages == 0


def test_a_target_that_meets_a_connection_being_cut_is_taken_and_so_is_the_next(
    device: Device,
) -> None:
    with start_qemu(device) as guest:
        guest.read_num_pages()
        last = guest.ram.regions[-1]
        os.ftruncate(guest.ram.fd(last), last.file_offset + last.size - PAGE_BYTES)
        device.control.set_target(7)
        device.wait_until_free()
        assert device.status().target_pages == 7
    device.control.set_target(9)
    wait_until(lambda: device.status().target_pages == 9, SECONDS, "the target is not taken")
    with start_qemu(device) as guest:
        assert guest.read_num_pages() == 9


def test_a_front_end_that_comes_again_and_again_cannot_fill_the_log(
    device: Device, caplog: pytest.LogCaptureFixture
) -> None:
    begin_s = time.monotonic()
    for _ in range(ROUNDS):
        with FrontEnd.connect(device.path) as garbage:
            garbage.wire.send_raw(bytes(12))
            assert garbage.wire.is_closed(SECONDS)
    with FrontEnd.connect(device.path) as first:
        first.get_features()
        for _ in range(ROUNDS):
            with FrontEnd.connect(device.path) as second:
                assert second.wire.is_closed(SECONDS)
    kinds = 3  # refused, lost, second: each at most once a second, and once at the start
    assert len(caplog.messages) <= kinds * (2 + time.monotonic() - begin_s)
