"""Faults put into the package on purpose, one at a time: each must make its tests fail.

`make mutants`.  The faults stand in list.toml: file, exact old text, new text, why it matters, and
the tests that should notice.  Every worker has a copy of the tree, so nothing here is touched.
A fault that keeps tests from being collected proves nothing and is an error, as is one whose old
text is not found exactly once, and tests that fail without any fault.
"""

from __future__ import annotations

import argparse
import ast
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Final

ROOT: Final = Path(__file__).parents[2]
LIST: Final = Path(__file__).with_name("list.toml")
BUILD: Final = ROOT / "build"
COPIED: Final = ("src", "tests", "packaging", "pyproject.toml", "README.md")
#: A fault that lets a test hang, or the process of the tests, is noticed when its time is over.
HANG_S: Final = 180
PROCESS_HANG_S: Final = 400
PASSED, FAILED = 0, 1  # exit codes of pytest; 2 to 5: it could not run the tests


@dataclass(frozen=True, slots=True)
class Mutant:
    """One fault."""

    file: str  #: below src/ballonet
    old: str
    new: str
    why: str
    tests: tuple[str, ...]  #: paths below tests, with `::name` if one test is meant


@dataclass(frozen=True, slots=True)
class Outcome:
    """What its tests said."""

    mutant: Mutant
    exit_code: int
    seconds: float
    output: str

    @property
    def verdict(self) -> str:
        """Noticed, survived, or an error of the list."""
        if self.exit_code == FAILED or self.exit_code < 0:  # below 0: the tests' process died
            return "noticed"
        return "SURVIVED" if self.exit_code == PASSED else "ERROR"


def main() -> None:
    """Run all mutants, or those whose file or reason has a word."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="a word of the file or the reason")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    mutants = [one for one in read_list(LIST) if options.only in f"{one.file} {one.why}"]
    problems = [problem for one in mutants for problem in misplaced(one)]
    if problems or not mutants:
        sys.exit("\n".join(problems) or "no such mutant")
    if code := run_without_fault(mutants, options.jobs):
        sys.exit(f"the tests fail without any fault: pytest ended with {code}")
    outcomes = run_all(mutants, options.jobs)
    alive = [one for one in outcomes if one.verdict != "noticed"]
    for one in alive:
        print(f"\n{one.verdict}: {one.mutant.file}: {one.mutant.why}\n{one.output[-2000:]}")
    print(f"{len(outcomes)} mutants, {len(outcomes) - len(alive)} noticed")
    sys.exit(bool(alive))


def read_list(path: Path) -> list[Mutant]:
    """All mutants of a list."""
    rows = tomllib.loads(path.read_text(encoding="utf-8"))["mutant"]
    return [Mutant(**{**row, "tests": tuple(row["tests"])}) for row in rows]


def misplaced(mutant: Mutant) -> Iterator[str]:
    """What is wrong with a mutant before it is tried."""
    path = ROOT / "src" / "ballonet" / mutant.file
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    found = text.count(mutant.old)
    if found != 1 or mutant.old == mutant.new:
        yield f"{mutant.file}: {mutant.why}: the old text is there {found} times"
    try:
        ast.parse(text.replace(mutant.old, mutant.new))
    except SyntaxError as error:
        yield f"{mutant.file}: {mutant.why}: it is not Python any more: {error}"
    for name in mutant.tests:
        if not (ROOT / "tests" / name.split("::")[0]).exists():
            yield f"{mutant.file}: {mutant.why}: there is no tests/{name}"


def run_without_fault(mutants: Sequence[Mutant], jobs: int) -> int:
    """Exit code of all tests that are named, on the tree as it is, side by side as `make test`."""
    names = sorted({name for mutant in mutants for name in mutant.tests})
    side_by_side = ["-n", str(2 * jobs), "--dist", "loadgroup"]
    with copied_tree() as tree:
        code, output = run_tests(tree, names, None, side_by_side)
    if code:
        print(output)
    return code


def run_all(mutants: Sequence[Mutant], jobs: int) -> list[Outcome]:
    """Try all, each worker in a tree of its own; prints each as it is done."""
    trees: SimpleQueue[Path] = SimpleQueue()

    def run(mutant: Mutant) -> Outcome:
        tree = trees.get()
        try:
            outcome = run_one(mutant, tree)
        finally:
            trees.put(tree)
        line = f"{outcome.verdict:8} {outcome.seconds:5.1f} s  {mutant.file}: {mutant.why}"
        print(line, flush=True)
        return outcome

    with ExitStack() as stack:
        for _ in range(jobs):
            trees.put(stack.enter_context(copied_tree()))
        with ThreadPoolExecutor(jobs) as pool:
            return list(pool.map(run, mutants))


def run_one(mutant: Mutant, tree: Path) -> Outcome:
    """Put the fault in, run its tests, take it out again."""
    path = tree / "src" / "ballonet" / mutant.file
    text = path.read_text(encoding="utf-8")
    begun_s = time.monotonic()
    path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
    try:
        code, output = run_tests(tree, mutant.tests, PROCESS_HANG_S)
    finally:
        path.write_text(text, encoding="utf-8")
    return Outcome(mutant, code, time.monotonic() - begun_s, output)


def run_tests(
    tree: Path, names: Sequence[str], patience_s: float | None, options: Sequence[str] = ()
) -> tuple[int, str]:
    """Exit code and output of pytest in a tree, whose package comes before the installed one."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *options]
    command += ["-o", f"timeout={HANG_S}", *(f"tests/{name}" for name in names)]
    # Without byte code: its check by second and size would miss a mutant.
    environment = os.environ | {"PYTHONPATH": str(tree / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    environment["BALLONET_WHOLE"] = "1"  # a mutant has no day off
    environment["BALLONET_REQUIRE"] = (
        "kernel,qemu,libvirt,prometheus,browser"  # a skip notices nothing
    )
    with (tree / "output").open("w+", encoding="utf-8") as output:
        with subprocess.Popen(
            command, cwd=tree, env=environment, stdout=output, stderr=output, start_new_session=True
        ) as process:
            try:
                code = process.wait(patience_s)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                code = process.wait()
        output.seek(0)
        return code, output.read()


@contextmanager
def copied_tree() -> Iterator[Path]:
    """A copy of what tests need, for the block."""
    with tempfile.TemporaryDirectory(prefix="ballonet-mutants-") as name:
        for one in COPIED:
            source, target = ROOT / one, Path(name) / one
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
        if BUILD.exists():  # kernels for QEMU, and modules for them
            (Path(name) / BUILD.name).symlink_to(BUILD.resolve())
        yield Path(name)


if __name__ == "__main__":
    main()
