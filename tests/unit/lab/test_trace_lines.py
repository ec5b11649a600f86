"""Lines of the kernel's trace are read as it writes them."""

from __future__ import annotations

from ballonet.lab.trace_lines import MARK, as_text, parse_trace

TRACE = """\
# tracer: function
#
# entries-in-buffer/entries-written: 6/6   #P:1
#
#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION
#              | |         |   |||||     |         |
          <idle>-0       [000] d.h1.    12.345678: virtballoon_changed [virtio_balloon] <-vp_interrupt [virtio_pci]
          <idle>-0       [000] d.h1.    12.345680: <stack trace>
 => 0xffffffffc0406083
 => virtballoon_changed
 => vp_interrupt+0x12
 => asm_common_interrupt
     kworker/0:1-19      [000] .....    12.345690: update_balloon_size_func <-process_one_work
     kworker/0:1-19      [000] d.h2.    12.345699: balloon_ack <-vring_interrupt
     kworker/0:1-19      [000] d.h2.    12.345700: <stack trace>
 => balloon_ack
              sh-77      [000] .....    12.345700: tracing_mark_write: mark1
     kworker/0:1-19      [000] d..2.  1012.000001: workqueue_queue_work: work struct=1 function=f workqueue=w
 my odd task-1-78      [001] .N...    99.000000: schedule <-do_exit
"""  # noqa: E501


def test_a_call_has_task_context_time_and_caller() -> None:
    entry = parse_trace(TRACE)[0]
    assert (entry.task, entry.pid, entry.flags) == ("<idle>", 0, "d.h1.")
    assert entry.at_ns == 12_345_678_000
    assert (entry.name, entry.detail) == ("virtballoon_changed", "vp_interrupt")


def test_a_stack_belongs_to_what_its_task_did_last_and_has_names_only() -> None:
    changed, size, acknowledged, *_ = parse_trace(TRACE)
    assert changed.stack == ("virtballoon_changed", "vp_interrupt", "asm_common_interrupt")
    assert size.stack == ()
    assert acknowledged.stack == ("balloon_ack",)


def test_a_stack_is_found_though_another_task_comes_between() -> None:
    text = (
        " sh-7 [000] ..... 1.000000: f <-g\n"
        " sh-8 [001] ..... 1.000001: h <-g\n"
        " sh-7 [000] ..... 1.000002: <stack trace>\n"
        " => f\n => g\n"
    )
    assert [one.stack for one in parse_trace(text)] == [("f", "g"), ()]


def test_events_and_marks_have_their_text() -> None:
    mark, queued = parse_trace(TRACE)[3:5]
    assert (mark.name, mark.detail) == (MARK, "mark1")
    assert queued.name == "workqueue_queue_work"
    assert queued.detail == "work struct=1 function=f workqueue=w"
    assert queued.at_ns == 1_012_000_001_000


def test_a_task_may_have_any_name() -> None:
    entry = parse_trace(TRACE)[-1]
    assert (entry.task, entry.pid, entry.name) == ("my odd task-1", 78, "schedule")


def test_the_context_is_told_by_the_signs() -> None:
    changed, size, acknowledged, *_ = parse_trace(TRACE)
    assert changed.is_in_interrupt
    assert changed.has_interrupts_off
    assert not changed.is_worker
    assert size.is_worker
    assert not size.is_in_interrupt
    assert not size.has_interrupts_off
    assert not acknowledged.is_worker, "it only interrupted one"


def test_a_stack_without_its_call_and_what_is_no_line_are_left_out() -> None:
    text = "cat: write error\n sh-7 [000] ..... 1.000000: <stack trace>\n => f\n#\n\n => g\n"
    assert parse_trace(text) == []


def test_a_back_trace_is_printed_with_the_caller_below() -> None:
    assert as_text(parse_trace(TRACE)[0]) == (
        "virtballoon_changed, in an interrupt of <idle>-0 (d.h1.)\n"
        "  <- vp_interrupt\n"
        "  <- asm_common_interrupt"
    )
    assert as_text(parse_trace(TRACE)[1]) == "update_balloon_size_func, in kworker/0:1-19 (.....)"
