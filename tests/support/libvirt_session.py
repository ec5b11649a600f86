"""A real libvirtd in session mode, with folders of its own: it touches nothing of the machine's.

Of a user without privileges, for as root it would be the system's.  Its domains are emulated.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from uuid import uuid4

from tests.support.programs import is_listening
from tests.support.wait import PATIENCE_S, wait_until

from ballonet.guests.initramfs import guest_files, pack_cpio
from ballonet.guests.kernel_package import find_kernel_package
from ballonet.guests.processes import PrivateDirectory
from ballonet.guests.qemu_kernel import find_qemu_kernel

MIB: Final = 1 << 20
_USER: Final = "nobody"
_PATH: Final = f"{os.environ.get('PATH', '')}:/usr/sbin"
#: Each has touched so much of its memory when it is ready.
TOUCHED_MIB: Final = 130
_READY: Final = "domain is ready"
_XML: Final = """
<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>{memory_mib}</memory>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{folder}/kernel</kernel>
    <initrd>{folder}/initramfs</initrd>
    <cmdline>console=ttyS0 quiet panic=-1 nokaslr mitigations=off no_timer_check</cmdline>
  </os>
  <devices>
    <controller type='usb' model='none'/>
    <serial type='file'><source path='{folder}/{name}.console'/></serial>
    {balloon}
  </devices>
</domain>
"""


def missing_program() -> str | None:
    """What is needed and not there."""
    for name in ("libvirtd", "virsh"):
        if shutil.which(name, path=_PATH) is None:
            return name
    try:
        import libvirt  # noqa: F401, PLC0415 - only whether it is there
    except ImportError:
        return "libvirt-python"
    return None


class LibvirtSession:
    """The daemon and its domains; a context manager that leaves neither."""

    def __init__(self, *, other_host: bool = False) -> None:
        """`other_host`: it believes to run on another one, so that domains can move there."""
        self._other_host = other_host
        # A short name: a socket's path has 108 letters.
        self._directory = PrivateDirectory("blv-", mark="{}")
        self.folder: Final = self._directory.path
        self._daemon: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self._fill_folder()
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def environment(self) -> dict[str, str]:
        """By which programs find it, and nothing of the user's own."""
        folders = {
            "XDG_RUNTIME_DIR": "run",
            "XDG_CONFIG_HOME": "config",
            "XDG_CACHE_HOME": "cache",
            "XDG_DATA_HOME": "data",
        }
        own = {name: str(self.folder / folder) for name, folder in folders.items()}
        # root finds a session of its own by the socket alone, and this one is another user's.
        own["LIBVIRT_DEFAULT_URI"] = self.uri
        return {**os.environ, "PATH": _PATH, "HOME": str(self.folder), **own}

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self.folder / "run/libvirt/libvirt-sock"

    @property
    def uri(self) -> str:
        """Of its connection."""
        return f"qemu:///session?socket={self.socket}"

    @property
    def pid(self) -> int:
        """Of the daemon."""
        assert self._daemon is not None
        return self._daemon.pid

    def start(self) -> None:
        """Returns when it listens. Safe to call again."""
        if self._daemon is not None and self._daemon.poll() is None:
            return
        command = ["libvirtd", "--pid-file", str(self.folder / "libvirtd.pid")]
        if os.geteuid() == 0:
            command = [
                "setpriv",
                "--reuid",
                _USER,
                "--regid",
                str(_gid()),
                "--clear-groups",
                *command,
            ]
        if self._other_host:
            naming = 'hostname elsewhere; exec "$@"'
            command = ["unshare", "--uts", "sh", "-c", naming, "sh", *command]
        with (self.folder / "libvirtd.log").open("ab") as log:
            self._daemon = subprocess.Popen(
                command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(lambda: is_listening(self.socket), PATIENCE_S, "libvirtd does not listen")

    def kill(self) -> None:
        """As a crash would end it; its domains go on."""
        assert self._daemon is not None
        self._daemon.kill()
        self._daemon.wait()

    def stop_answering(self) -> None:
        """It stands still."""
        os.kill(self.pid, signal.SIGSTOP)

    def answer_again(self) -> None:
        """It goes on."""
        os.kill(self.pid, signal.SIGCONT)

    def virsh(self, *arguments: str) -> str:
        """What virsh prints. Raises: CalledProcessError."""
        done = subprocess.run(
            ["virsh", "-q", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def memory_stats(self, name: str) -> dict[str, int]:
        """By virsh, in KiB."""
        rows = self.virsh("dommemstat", name).splitlines()
        return {key: int(value) for key, value in (row.split() for row in rows)}

    def has_all(self, name: str) -> bool:
        """Its balloon is empty, and libvirt has heard of it."""
        rows = self.virsh("domstats", "--balloon", name).split()
        told = dict(row.split("=") for row in rows if row.startswith("balloon."))
        return told["balloon.current"] == told["balloon.maximum"]

    def period_s(self, name: str) -> int:
        """How often the guest is asked for statistics, by its description."""
        _, found, rest = self.virsh("dumpxml", name).partition("<stats period='")
        return int(rest.partition("'")[0]) if found else 0

    def begin(self, name: str, *, memory_mib: int = 256, balloon: str = "virtio") -> None:
        """Have a domain boot."""
        xml = self.folder / f"{name}.xml"
        element = f"<memballoon model='{balloon}'/>"
        text = _XML.format(name=name, memory_mib=memory_mib, folder=self.folder, balloon=element)
        xml.write_text(text, encoding="utf-8")
        self.virsh("define", str(xml))
        self.virsh("start", name)

    def wait_until_ready(self, name: str) -> None:
        """It has booted, and touched its memory."""
        console = self.folder / f"{name}.console"
        wait_until(
            lambda: console.exists() and _READY in console.read_text(errors="replace"),
            PATIENCE_S,
            f"{name} does not boot",
        )

    def end(self, name: str) -> None:
        """End a domain for good."""
        self.virsh("destroy", name)
        self.virsh("undefine", name)

    def close(self) -> None:
        """End everything. Safe to call again."""
        if self._daemon is not None and self._daemon.poll() is None:
            self._daemon.kill()
            self._daemon.wait()
        self._directory.close()

    def _fill_folder(self) -> None:
        kernel, package = find_qemu_kernel(), find_kernel_package()
        modules = {path.name: path.read_bytes() for path in kernel.modules}
        first = f"dd if=/dev/zero of=/tmp/touched bs=1M count={TOUCHED_MIB} 2>/dev/null"
        first += f"; rm /tmp/touched; echo {_READY} > /dev/ttyS0"
        files = guest_files(package.busybox, package.applets, modules, first=first)
        (self.folder / "initramfs").write_bytes(pack_cpio(files))
        shutil.copy(kernel.image, self.folder / "kernel")
        for name in ("run", "config/libvirt", "cache", "data"):
            (self.folder / name).mkdir(parents=True, mode=0o700)
        # Consoles are files of its own, without a daemon that writes them.
        conf = self.folder / "config/libvirt/qemu.conf"
        conf.write_text('stdio_handler = "file"\n', encoding="utf-8")
        if self._other_host:
            conf = self.folder / "config/libvirt/libvirtd.conf"
            conf.write_text(f'host_uuid = "{uuid4()}"\n', encoding="utf-8")
        if os.geteuid() == 0:
            for path in (self.folder, *self.folder.rglob("*")):
                shutil.chown(path, _USER, _gid())


def _gid() -> int:
    """Of the user that libvirtd runs as."""
    return pwd.getpwnam(_USER).pw_gid
