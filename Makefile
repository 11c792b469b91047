# Every command of the project. `make run` shows it, `make check` proves it.

SHELL := /bin/bash
# The distribution's Python first: it is built with profile-guided optimization, a fifth of the speed, and others often are not.
PYTHON ?= $(firstword $(wildcard /usr/bin/python3.1[1-9]) python3)
VENV := .venv
BIN := $(VENV)/bin
# trial and pytest both treat warnings as errors; the one that is filtered is Twisted's own.
WARNINGS := PYTHONWARNINGS="error,ignore:Passing pyOpenSSL:DeprecationWarning"
# Everything is proven on the fast path by pytest, and on the public path of Twisted and pyOpenSSL by trial, where
# what moves bytes with real peers is run once more by pytest.
BOTH_PATHS := $(addprefix tests/functional/test_real_,relay.py client.py hazards.py suite.py store.py nbd.py tunnel.py tunnel_threats.py)
# Browsers, virtual machines and libvirtd wait more than they work: they run beside all the rest, as does what lasts
# minutes and looks at what is left of it. What measures time has the machine for itself.
SHOWN := $(addprefix tests/functional/test_real_,browser.py canary.py client.py console_logins.py console_peers.py \
    console_threats.py consoles.py page_tools.py pages.py recording.py replay.py rfb.py rpc_pages.py status.py viewer.py)
VIRT := $(addprefix tests/functional/test_real_,connect.py events.py libvirt_wire.py planes.py rpc.py rpc_access.py rpc_kills.py \
    rpc_shell.py rpc_threats.py sasl.py stock_clients.py targets.py transports.py virsh.py virsh_logins.py virsh_reads.py virsh_rights.py)
LASTING := $(addprefix tests/functional/test_real_,endurance.py load.py)
ALONE := $(addprefix tests/functional/test_real_,bench.py console_load.py fairness.py shared.py virsh_ends.py)
# What has failed is said once more at the end, where it is looked for.
LOG := var/test.log
RECAP := { echo "What has failed:"; grep -E "^(FAILED|ERROR) |\[(FAIL|ERROR)\]$$|^make.*Error" $(LOG) | cut -c1-300; exit 1; }
PREFIX ?= /usr/local
DESTDIR ?=

.PHONY: help run check lint types test test-lasting test-virt test-shown test-rest test-units test-public test-public-peers coverage peers \
    conformance bench docs install install-dev dist clean

help:
	@echo "make run      a gateway with its own CA and image store under var/, links printed"
	@echo "make check    everything that is proven, with the real peers"
	@echo "make conformance  the websockets against every case of the standard;  make coverage  lines without a test"
	@echo "make bench    the gateway beside nginx, HAProxy, Squid, ovirt-imageio and websockify, in half an hour"
	@echo "make install  into DESTDIR and PREFIX;  make dist  a source archive;  make clean"

# What the virtual environment holds follows setup.py.
$(VENV)/.made: setup.py pyproject.toml
	$(PYTHON) -m venv $(VENV) || { echo "Install Python's venv module first: apt-get install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	$(BIN)/python -c "from twisted.plugin import IPlugin, getPlugins; list(getPlugins(IPlugin))"
	touch $@

$(VENV)/.made-test: $(VENV)/.made
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

# The viewers of the console page follow their lock file. Without npm all but that page works, and it says why.
NPM := gateway/web/npm
$(NPM)/node_modules/.made: $(NPM)/package.json $(NPM)/package-lock.json
	@if ! command -v npm >/dev/null; then \
	    echo "npm is missing (apt-get install npm): there will be no consoles in the browser" >&2; \
	elif npm ci --prefix $(NPM) --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null; then touch $@; \
	else echo "npm has failed: there will be no consoles in the browser" >&2; fi

install-dev: $(VENV)/.made-test

run: $(VENV)/.made $(NPM)/node_modules/.made
	@$(BIN)/python -m gateway.ctl.demo var

check: peers lint types test

# Installs the programs that the tests run against, or says what is missing.
peers:
	@PYTHON=$(PYTHON) tests/functional/install-peers
	@$(MAKE) --no-print-directory $(VENV)/.made-test

lint: $(VENV)/.made-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.made-test
	$(BIN)/mypy

# Of what runs at once, what waits for nobody gives way to what waits for peers and counts the seconds. The long ones first.
test: $(VENV)/.made-test $(NPM)/node_modules/.made
	@mkdir -p var
	@set -o pipefail; $(MAKE) --no-print-directory --keep-going -j3 --output-sync=target \
	    test-lasting test-virt test-shown test-units test-public test-rest test-public-peers 2>&1 | tee $(LOG) || $(RECAP)
	@set -o pipefail; $(BIN)/python -m pytest $(ALONE) 2>&1 | tee $(LOG) || $(RECAP)

test-lasting:
	nice $(BIN)/python -m pytest $(LASTING)

test-virt:
	$(BIN)/python -m pytest $(wildcard $(VIRT))

test-shown:
	$(BIN)/python -m pytest $(SHOWN)

test-rest:
	$(BIN)/python -m pytest tests/functional $(addprefix --ignore=,$(SHOWN) $(VIRT) $(LASTING) $(ALONE))

test-units:
	nice $(BIN)/python -m pytest --ignore=tests/functional

test-public:
	GATEWAY_FAST=off $(WARNINGS) nice $(BIN)/python -m twisted.trial --temp-directory=var/trial tests

test-public-peers:
	GATEWAY_FAST=off $(BIN)/python -m pytest $(BOTH_PATHS) -k "not LifetimeTests"

# Which lines the tests without peers never reach; it takes them twice the time.
coverage: $(VENV)/.made-test
	$(BIN)/python -m coverage run -m pytest --ignore=tests/functional
	$(BIN)/python -m coverage report

# Every case of the websocket standard, the large and slow ones too, in a minute or two.
conformance: $(VENV)/.made-test
	$(BIN)/python -m tests.functional.conformance var/conformance

bench: peers $(VENV)/.made-test
	bench/run

docs: $(VENV)/.made
	$(BIN)/python -c "from gateway.core.config_text import document; print(document(), end='')" > conf/gateway.conf

install: $(NPM)/node_modules/.made
	PIP_BREAK_SYSTEM_PACKAGES=1 $(PYTHON) -m pip install --quiet --disable-pip-version-check \
	    --root "$(or $(DESTDIR),/)" --prefix "$(PREFIX)" --no-deps .
	install -D -m 0640 conf/gateway.conf "$(DESTDIR)/etc/gateway/gateway.conf"
	install -D -m 0644 docs/man/gatewayctl.1 "$(DESTDIR)$(PREFIX)/share/man/man1/gatewayctl.1"
	install -D -m 0644 docs/man/gateway-connect.1 "$(DESTDIR)$(PREFIX)/share/man/man1/gateway-connect.1"
	install -D -m 0644 docs/man/gateway.8 "$(DESTDIR)$(PREFIX)/share/man/man8/gateway.8"
	install -D -m 0644 packaging/gateway.service "$(DESTDIR)/usr/lib/systemd/system/gateway.service"

dist: $(VENV)/.made $(NPM)/node_modules/.made
	$(BIN)/python setup.py --quiet sdist

clean:
	rm -rf $(VENV) $(NPM)/node_modules var build dist .coverage .coverage.* .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -f twisted/plugins/dropin.cache
