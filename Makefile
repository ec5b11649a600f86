# Every target sets up what it needs. `make run` and `make test` are all a newcomer has to type.
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
# Errors only: warnings of a machine's own package sources would hide them.
PIP_INSTALL := pip install -qq --disable-pip-version-check
SAY_PIP = echo "installing Python packages into $(1), which may take a minute ..."
# Two tests a processor, because they mostly wait for guests and time-outs; those that share a guest
# stay together, see their conftest.py.
SIDE_BY_SIDE := -n $(shell expr 2 '*' $$(nproc)) --dist loadgroup

# Of the tests of whole programs those that show what other people's libraries do for us.
PROGRAMS := agent clients device_program embedded_guest host image_files migrating monitor monitor_prompt \
    sibling_conformance trace

.PHONY: help run test answers manuals deb mutants test-unit test-kernel test-qemu test-libvirt conform-linux test-oldest check lint fix fuzz fleets bench plots clean system system-dev system-qemu system-libvirt system-prometheus system-browser

help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

run: system .venv/.installed ## the main job: a real Linux kernel gives memory back
	$(BIN)/ballonet demo

test: system system-qemu system-libvirt system-prometheus system-browser .venv/.dev ## every test, on a real kernel, against a real QEMU, libvirt, Prometheus and Chromium too
	BALLONET_REQUIRE=kernel,qemu,libvirt,prometheus,browser $(BIN)/pytest $(SIDE_BY_SIDE)

test-unit: system .venv/.dev ## the tests that start no kernel
	$(BIN)/pytest $(SIDE_BY_SIDE) -m 'not kernel and not qemu and not libvirt and not prometheus and not browser'

test-kernel: system .venv/.dev ## only the tests on a real kernel
	BALLONET_REQUIRE=kernel $(BIN)/pytest $(SIDE_BY_SIDE) -m 'kernel and not browser'

test-qemu: system system-qemu .venv/.dev ## only the tests against a real QEMU
	BALLONET_REQUIRE=kernel,qemu $(BIN)/pytest $(SIDE_BY_SIDE) -m qemu

test-libvirt: system system-qemu system-libvirt .venv/.dev ## only the tests against a real libvirtd
	BALLONET_REQUIRE=libvirt $(BIN)/pytest $(SIDE_BY_SIDE) -m libvirt

conform-linux: system system-qemu .venv/.dev ## every check of the real drivers of Hyper-V's and VMware's balloons
	BALLONET_REQUIRE=kernel,qemu BALLONET_WHOLE=1 $(BIN)/pytest -v tests/qemu/test_sibling_conformance.py

test-oldest: system ## units and programs, on the oldest dependencies that are allowed
	@$(call SAY_PIP,.venv-oldest)
	@$(PYTHON) -m venv .venv-oldest
	@.venv-oldest/bin/python scripts/oldest-requirements >.venv-oldest/requirements
	@.venv-oldest/bin/$(PIP_INSTALL) --force-reinstall --no-deps .
	@.venv-oldest/bin/$(PIP_INSTALL) --requirement .venv-oldest/requirements .
	.venv-oldest/bin/pytest $(SIDE_BY_SIDE) -p no:cacheprovider tests/unit \
	    $(PROGRAMS:%=tests/integration/test_%.py)

check: lint ## the same, and the rules of the tests and documents
	$(BIN)/pytest -q tests/repo

lint: system .venv/.dev ## format, lint, types, import contract, spelling
	$(BIN)/ruff format --check src tests bench
	$(BIN)/ruff check src tests bench
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

fix: .venv/.dev ## repair what can be repaired
	$(BIN)/ruff format src tests bench
	$(BIN)/ruff check --fix src tests bench
	$(BIN)/ruff format src tests bench

mutants: system system-qemu system-libvirt system-prometheus system-browser .venv/.dev ## faults put in on purpose, each of which the tests must notice
	$(BIN)/python -m tests.mutants

fuzz: system .venv/.dev ## a million random guests against the device, a million against its siblings, every history
	$(BIN)/python -m tests.fuzz --inputs 1000000
	BALLONET_WHOLE=1 $(BIN)/pytest $(SIDE_BY_SIDE) tests/property

fleets: system .venv/.dev ## the autopilot's law on a hundred thousand random fleets, some minutes
	BALLONET_FLEETS=100000 $(BIN)/pytest -q tests/property/test_allocation.py tests/property/test_autopilot.py

answers: system system-qemu .venv/.dev ## every question of `ballonet lab`, into docs/answers
	$(BIN)/ballonet lab --all --write docs/answers >/dev/null

bench: system system-qemu .venv/.dev ## measurements, each a ratio; figures go to build/bench.json
	$(BIN)/python -m bench

plots: system .venv/.dev ## pictures of the last measurements, for docs/performance.md
	@$(call SAY_PIP,.venv)
	@$(BIN)/$(PIP_INSTALL) --editable '.[plots]'
	$(BIN)/python -m bench.plots

manuals: .venv/.dev ## manual pages of every verb, into build/man
	$(BIN)/python scripts/manuals build/man

deb: .venv/.dev ## a Debian package of the program with its libraries, units and manuals, into build
	PIP=$(BIN)/pip sh scripts/debian-package

clean: ## remove everything that was built
	rm -rf .venv .venv-oldest build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

system:
	@sh scripts/system-packages

system-dev:
	@sh scripts/system-packages dev

system-qemu:
	@sh scripts/system-packages qemu

system-libvirt:
	@sh scripts/system-packages libvirt

system-prometheus:
	@sh scripts/system-packages prometheus

system-browser:
	@sh scripts/system-packages browser

.venv/bin/python:
	@$(PYTHON) -m venv .venv

.venv/.installed: pyproject.toml | system .venv/bin/python
	@$(call SAY_PIP,.venv)
	@$(BIN)/$(PIP_INSTALL) --editable '.[agent,monitor]'
	@touch $@

.venv/.dev: pyproject.toml | system system-dev .venv/bin/python
	@$(call SAY_PIP,.venv)
	@$(BIN)/$(PIP_INSTALL) --editable '.[dev]'
	@touch $@ .venv/.installed
