"""What the verbs make of domains of a real libvirtd."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.libvirt.conftest import Domains
from tests.support.libvirt_session import TOUCHED_MIB, LibvirtSession
from tests.support.programs import started, wait_for_listener
from tests.support.wait import PATIENCE_S, wait_until

#: They see what runs on this machine, by name: one after the other.
pytestmark = [pytest.mark.xdist_group("machines by name"), pytest.mark.timeout(300)]

BALLONET = str(Path(sys.executable).with_name("ballonet"))
MIB = 1 << 20
Ballonet = Callable[..., subprocess.CompletedProcess[str]]
WITHOUT_LIBVIRT = (
    "import sys; sys.modules['libvirt'] = None; from ballonet.cli.main import main; main()"
)


@pytest.fixture
def ballonet(domains: Domains) -> Ballonet:
    """The program, where it finds the domains."""

    def run(
        *arguments: str, program: tuple[str, ...] = (BALLONET,)
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*program, *arguments],
            env=domains.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    return run


def listed(ballonet: Ballonet, pattern: str = "lv-*") -> dict[str, dict[str, object]]:
    """Rows of `list` by name."""
    done = ballonet("list", pattern, "--json")
    assert done.returncode == 0, done.stderr
    return {row["name"]: row for row in json.loads(done.stdout)}


def pid_of(domains: Domains, name: str) -> int:
    """Of its QEMU, as libvirt has written it down."""
    (path,) = domains.session.folder.rglob(f"{name}.pid")
    return int(path.read_text(encoding="ascii"))


def test_all_domains_are_listed_with_their_sizes_and_what_the_host_holds(
    domains: Domains, ballonet: Ballonet
) -> None:
    rows = listed(ballonet)
    assert list(rows) == sorted(domains.names)
    for name, row in rows.items():
        assert (row["kind"], row["uri"]) == ("libvirt", f"libvirt:{name}")
        assert (row["why_not"], row["problem"], row["paused"]) == (None, None, False)
        assert (row["memory_bytes"], row["actual_bytes"]) == (256 * MIB, 256 * MIB)
        assert row["pid"] == pid_of(domains, name)
        assert isinstance(row["host_bytes"], int)
        assert TOUCHED_MIB * MIB < row["host_bytes"] <= 256 * MIB


def test_a_size_arrives_and_virsh_agrees(domains: Domains, ballonet: Ballonet) -> None:
    before = listed(ballonet)["lv-web"]["host_bytes"]
    done = ballonet("set", "lv-web", "200M", "--wait")
    assert done.returncode == 0, done.stderr
    assert "reached: the guest keeps 200.0 MiB" in done.stdout
    assert domains.session.memory_stats("lv-web")["actual"] == 200 << 10
    assert "200.0 MiB" in ballonet("info", "lv-web").stdout
    message = "libvirt does not hear of it"
    wait_until(lambda: listed(ballonet)["lv-web"]["actual_bytes"] == 200 * MIB, PATIENCE_S, message)
    after = listed(ballonet)["lv-web"]["host_bytes"]
    assert isinstance(before, int)
    assert isinstance(after, int)
    assert after < min(before, 201 * MIB)
    assert "<currentMemory unit='KiB'>262144<" in domains.session.virsh(
        "dumpxml", "lv-web", "--inactive"
    )
    assert ballonet("set", "libvirt:lv-web", "1G", "--wait").returncode == 0
    assert domains.session.memory_stats("lv-web")["actual"] == 256 << 10


def test_a_size_that_is_no_kib_leaves_the_guest_no_less(
    domains: Domains, ballonet: Ballonet
) -> None:
    assert ballonet("set", "lv-web", f"{(200 << 20) + 1}B", "--wait").returncode == 0
    assert domains.session.memory_stats("lv-web")["actual"] >= (200 << 10) + 1


def test_less_than_a_guest_uses_is_refused(domains: Domains, ballonet: Ballonet) -> None:
    done = ballonet("set", "lv-db", "16M")
    assert (done.returncode, "refused: of its 256.0 MiB" in done.stderr) == (1, True)
    assert domains.session.memory_stats("lv-db")["actual"] == 256 << 10
    least = json.loads(ballonet("set", "lv-db", "--min", "--wait", "--json").stdout)
    assert least["verdict"] == "reached"
    assert domains.session.memory_stats("lv-db")["actual"] < 200 << 10


def test_statistics_are_those_of_virsh_in_bytes(domains: Domains, ballonet: Ballonet) -> None:
    done = ballonet("stats", "lv-*", "--json")
    assert done.returncode == 0, done.stderr
    answers = {row["name"]: row for row in json.loads(done.stdout)}
    assert set(answers) == set(domains.names)
    for name, row in answers.items():
        stats, virsh = row["stats"], domains.session.memory_stats(name)
        assert row["last_update_s"] == virsh["last_update"]
        assert stats["total_memory_bytes"] == virsh["available"] << 10
        assert stats["available_memory_bytes"] == virsh["usable"] << 10
        assert stats["free_memory_bytes"] == virsh["unused"] << 10
        assert stats["disk_caches_bytes"] == virsh["disk_caches"] << 10
        assert stats["swap_in_bytes"] == virsh["swap_in"] << 10
        assert stats["minor_faults"] == virsh["minor_fault"]
        assert stats["htlb_pgalloc"] == virsh["hugetlb_pgalloc"]
        assert stats["total_memory_bytes"] > stats["available_memory_bytes"]
    row = listed(ballonet)["lv-web"]
    assert row["has_driver"] is True
    assert row["available_bytes"] == answers["lv-web"]["stats"]["available_memory_bytes"]
    assert isinstance(row["stats_age_s"], float)
    assert "lv-mail" in ballonet("stats", "--all").stdout


def test_an_interval_of_somebody_else_stays(domains: Domains, ballonet: Ballonet) -> None:
    domains.session.virsh("dommemstat", "lv-web", "--period", "7", "--live")
    try:
        assert ballonet("stats", "lv-web").returncode == 0
        assert domains.session.period_s("lv-web") == 7
        assert json.loads(ballonet("info", "lv-web", "--json").stdout)["poll_interval_s"] == 7
    finally:
        domains.session.virsh("dommemstat", "lv-web", "--period", "0", "--live")


def test_info_shows_one_domain(domains: Domains, ballonet: Ballonet) -> None:
    look = json.loads(ballonet("info", "lv-mail", "--json").stdout)
    assert (look["kind"], look["name"]) == ("libvirt", "lv-mail")
    assert (look["memory_bytes"], look["logical_bytes"]) == (256 * MIB, 256 * MIB)
    assert (look["paused"], look["poll_interval_s"]) == (False, 0)
    by_uri = ballonet("info", f"libvirt:{domains.uri}#lv-mail")
    assert "host holds" in by_uri.stdout
    unknown = ballonet("info", f"libvirt:{domains.uri}#lv-nobody")
    assert unknown.stderr == "ballonet: no domain is named lv-nobody there\n"


def test_its_monitor_is_left_to_libvirt(domains: Domains, ballonet: Ballonet) -> None:
    done = ballonet("monitor", "lv-web")
    assert done.returncode == 1
    assert f"virsh -c {domains.uri} qemu-monitor-command lv-web" in done.stderr
    moved = ballonet("migrate", "lv-web", "unix:/nowhere")
    assert (moved.returncode, "virsh migrate" in moved.stderr) == (1, True)


def test_a_domain_without_a_balloon_says_so(domains: Domains, ballonet: Ballonet) -> None:
    domains.session.begin("lv-none", memory_mib=128, balloon="none")
    try:
        row = listed(ballonet, "lv-none")["lv-none"]
        assert "no balloon" in str(row["problem"])
        assert (row["memory_bytes"], row["why_not"]) == (128 * MIB, None)
        for verb in (("set", "lv-none", "100M"), ("stats", "lv-none")):
            done = ballonet(*verb)
            assert (done.returncode, "no balloon" in done.stderr) == (1, True)
        assert "no balloon" in ballonet("info", "lv-none").stdout
    finally:
        domains.session.end("lv-none")


def test_a_paused_domain_says_so(domains: Domains, ballonet: Ballonet) -> None:
    domains.session.virsh("suspend", "lv-mail")
    try:
        assert listed(ballonet)["lv-mail"]["paused"] is True
        assert "paused" in ballonet("list", "lv-mail").stdout
        assert "the VM is paused" in ballonet("set", "lv-mail", "200M").stdout
        assert "the VM is paused" in ballonet("stats", "lv-mail").stderr
    finally:
        domains.session.virsh("setmem", "lv-mail", "256M", "--live")
        domains.session.virsh("resume", "lv-mail")


def test_a_domain_that_libvirt_is_busy_with_says_with_what(
    domains: Domains, ballonet: Ballonet
) -> None:
    path = domains.session.folder / "saved"
    os.mkfifo(path)
    path.chmod(0o666)
    with (
        os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as reader,
        started(
            ["virsh", "save", "lv-db", str(path)],
            env=domains.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as virsh,
    ):
        wait_until(
            lambda: listed(ballonet)["lv-db"]["problem"] == "libvirt is saving it",
            PATIENCE_S,
            "it is not being saved",
        )
        assert listed(ballonet)["lv-web"]["problem"] is None
        done = ballonet("set", "lv-db", "200M")
        assert (done.returncode, "refused setmem: libvirt is saving it" in done.stderr) == (1, True)
        reader.close()  # without having read: the domain goes on
        assert virsh.wait(PATIENCE_S) == 1
    assert listed(ballonet)["lv-db"]["problem"] is None


def test_a_domain_that_migrates_is_left_alone(domains: Domains, ballonet: Ballonet) -> None:
    if subprocess.run(["unshare", "--uts", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user cannot have a second host on this one")
    with LibvirtSession(other_host=True) as there:
        to = there.uri.replace("qemu:", "qemu+unix:")
        command = ["virsh", "migrate", "--live", "lv-mail", "--desturi", to, "--bandwidth", "1"]
        with started(
            [*command, "--migrateuri", "tcp://127.0.0.1"],
            env=domains.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as virsh:
            wait_until(
                lambda: look_at(ballonet)["problem"] == "libvirt is migrating it",
                PATIENCE_S,
                "it does not migrate",
            )
            assert look_at(ballonet)["logical_bytes"] == 256 * MIB
            done = ballonet("set", "libvirt:lv-mail", "200M")
            assert (done.returncode, "libvirt is migrating it" in done.stderr) == (1, True)
            stats = ballonet("stats", "libvirt:lv-mail")
            assert (stats.returncode, "libvirt is migrating it" in stats.stderr) == (1, True)
            domains.session.virsh("domjobabort", "lv-mail")
            virsh.wait(PATIENCE_S)
    assert look_at(ballonet)["problem"] is None


def look_at(ballonet: Ballonet) -> dict[str, object]:
    """What `info` tells of the domain that migrates; the other end of it has its name, too."""
    look = json.loads(ballonet("info", "libvirt:lv-mail", "--json").stdout)
    assert isinstance(look, dict)
    return look


def test_a_domain_that_is_shut_off_is_not_listed_and_named_so(
    domains: Domains, ballonet: Ballonet
) -> None:
    domains.session.begin("lv-off", memory_mib=128)
    try:
        assert "lv-off" in listed(ballonet)
        domains.session.virsh("destroy", "lv-off")
        assert "lv-off" not in listed(ballonet)
        for verb in (("info", "lv-off"), ("set", "lv-off", "100M")):
            done = ballonet(*verb)
            assert done.returncode == 1
            assert "it is shut off" in done.stderr
            assert f"virsh -c {domains.uri} start lv-off" in done.stderr
    finally:
        domains.session.virsh("undefine", "lv-off")


@pytest.fixture
def twin(tmp_path: Path) -> Iterator[None]:
    """A QEMU of somebody else's with the name of a domain."""
    path = tmp_path / "qmp"
    command = ["qemu-system-x86_64", "-machine", "none", "-S", "-display", "none", "-nodefaults"]
    command += ["-name", "lv-db", "-qmp", f"unix:{path},server=on,wait=off"]
    with started(command, stdin=subprocess.DEVNULL) as qemu:
        wait_for_listener(path)
        yield
        qemu.kill()


@pytest.mark.usefixtures("twin")
def test_a_qemu_and_a_domain_of_one_name_are_told_apart(ballonet: Ballonet) -> None:
    done = ballonet("info", "lv-db")
    assert done.returncode == 1
    assert done.stderr == "ballonet: 2 machines are named lv-db: libvirt:lv-db, qemu:lv-db\n"
    look = json.loads(ballonet("info", "libvirt:lv-db", "--json").stdout)
    assert (look["kind"], look["memory_bytes"]) == ("libvirt", 256 * MIB)
    assert json.loads(ballonet("info", "qemu:lv-db", "--json").stdout)["kind"] == "qemu"


def test_without_libvirt_python_it_is_told_what_to_install(ballonet: Ballonet) -> None:
    program = (sys.executable, "-c", WITHOUT_LIBVIRT)
    done = ballonet("list", "lv-web", "--json", program=program)
    (row,) = json.loads(done.stdout)
    assert (row["kind"], row["memory_bytes"]) == ("qemu", 256 * MIB)
    assert "pip install 'ballonet[libvirt]'" in row["why_not"]
    assert isinstance(row["host_bytes"], int)


def test_a_qemu_that_hangs_holds_up_no_other_domain(domains: Domains, ballonet: Ballonet) -> None:
    pid = pid_of(domains, "lv-db")
    os.kill(pid, signal.SIGSTOP)
    try:
        rows = listed(ballonet)
        info = ballonet("info", "lv-db")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert [rows[name]["why_not"] for name in domains.names] == [None] * 3
    assert "has not answered libvirt" in str(rows["lv-db"]["problem"])
    assert "has not answered libvirt" in info.stdout
    assert rows["lv-web"]["problem"] is rows["lv-mail"]["problem"] is None
    assert isinstance(rows["lv-db"]["host_bytes"], int)
