# A fresh machine needs make and Python 3.11 or later; everything else is installed below this folder.

PYTHON ?= python3
ARGS   ?=
SEEDS  ?= 0-999
# The OCI's format, which podman has by default, knows of no health checks.
BUILD  ?= podman build --format docker

# Before pip looks at versions that need a newer Python than there is, and speaks of those.
CHECK_PYTHON = $(PYTHON) -c 'import sys; found = sys.version_info; found < (3, 11) and sys.exit("Handfast needs Python \
3.11 or later, and $(PYTHON) is %d.%d; name a newer one: make install PYTHON=python3.12" % found[:2])'

BIN       := .venv/bin
INSTALLED := .venv/.installed
GENERATOR := .venv-generate/.installed
MUTATOR   := .venv-mutate/.installed
BENCH     := .venv-bench/.installed
PROMTOOL  := .tools/bin/promtool
GO_CLIENT := .tools/clients/go/installed
TS_CLIENT := .tools/clients/typescript/installed
PGBOUNCER := .tools/bin/pgbouncer
PATRONI   := .venv-failover/.installed
ETCD      := .tools/bin/etcd
HAPROXY   := .tools/bin/haproxy
DOCS      := .venv-docs/.installed
# By its version, so that another one is installed anew.
GRPCURL   := .tools/installed/grpcurl@v1.9.4
GHZ       := .tools/installed/ghz@v0.120.0
HELM      := .tools/installed/helm@v3.22.0
MERMAID   := .tools/installed/mermaid@12.3.0
WORKER    := .tools/installed/iframe-worker@1.0.4
PYRIGHT   := .tools/installed/pyright@1.1.414
NOTE      = @mkdir -p $(@D) && touch $@
DEBIAN    := .tools/image-base.tar
CONTRACTS := . examples/postage examples/credits
CHECKS    := check-format check-lint check-types check-boundaries check-contracts check-breaking check-generated \
             check-alerts check-image check-chart

.DEFAULT_GOAL := help
.PHONY: help install up demo demo-credits bench growth overload overload-go
.PHONY: test crash failover replicas contend upgrade trace fuzz simulate mutate
.PHONY: docs dist image image-test chart check $(CHECKS) format generate freeze version pins grpcurl ghz pyright
.PHONY: go-client typescript-client promtool helm pgbouncer clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' Makefile

install: $(INSTALLED) ## create .venv with everything in it

# The pins hold for what builds the package, too.
$(INSTALLED): pyproject.toml constraints.txt
	@$(CHECK_PYTHON)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --build-constraint constraints.txt \
	    --editable '.[server,otel,types]' --group dev
	@touch $@

up: $(INSTALLED) ## start the suite on SQLite, with its data in ./var (ARGS='--first-port 6000')
	@exec $(BIN)/handfast up --data-dir ./var $(ARGS)

demo: $(INSTALLED) ## watch changes commit everywhere or nowhere (ARGS='--first-port 6000')
	@exec $(BIN)/handfast demo $(ARGS)

demo-credits: $(INSTALLED) ## watch a service of one's own take part in a transaction
	@cd examples/credits && exec $(CURDIR)/$(BIN)/python -m demo

bench: $(BENCH) ## measure side by side what things cost (QUICK=1 for a first impression, ARGS='cost --only get-user')
	env -u PYTHONDONTWRITEBYTECODE .venv-bench/bin/python -m benchmarks $(if $(QUICK),--quick,$(if $(ARGS),,--write)) $(ARGS)

# grpc-server-kit asks for Python 3.12; benchmarks/peers/kit.py does with 3.11.
$(BENCH): pyproject.toml constraints.txt
	@$(CHECK_PYTHON)
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --constraint constraints.txt --upgrade pip
	.venv-bench/bin/python -m pip install --quiet --constraint constraints.txt --build-constraint constraints.txt \
	    --editable '.[server,otel,types]' --group dev --group bench
	.venv-bench/bin/python -m pip install --quiet --constraint constraints.txt --no-deps --ignore-requires-python \
	    grpc-server-kit
	@touch $@

growth: $(INSTALLED) ## say what a load takes in servers, connections and storage (ARGS='--users 5000000')
	@$(BIN)/python -m benchmarks.growth $(ARGS)

overload: $(INSTALLED) ## ask ten times more of the servers than they can do, and see what is left (ARGS='--rounds 1')
	$(BIN)/python -m benchmarks.overload $(ARGS)

overload-go: $(INSTALLED) $(GHZ) ## the same with grpc-go callers, who come again at once (needs Go)
	$(BIN)/python -m benchmarks.overload_go $(ARGS)

# Three processes keep two processors busy, as tests wait for a third of their time. And each of the many servers that
# they start would compile the sources anew where the environment keeps it from writing.
test: $(INSTALLED) ## run the tests in three processes (ARGS='-k page'; RETEST=1: what failed once more, each by itself)
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/$(if $(RETEST),python tools/retest.py,pytest) -n 3 --dist worksteal $(ARGS)

crash: $(INSTALLED) ## kill servers and databases while clients run, and check what they saw (ARGS='--kills 20')
	PYTHONPATH=examples/credits $(BIN)/python -m tests.crashes.run $(ARGS)

failover: $(INSTALLED) $(PATRONI) $(ETCD) $(HAPROXY) ## let PostgreSQL fail over under load (ARGS='--rounds 6')
	@tests/failover/isolate.sh $(BIN)/python -m tests.failover.run $(ARGS)

$(PATRONI): tests/failover/requirements.txt
	@$(CHECK_PYTHON)
	$(PYTHON) -m venv .venv-failover
	.venv-failover/bin/python -m pip install --quiet --requirement $<
	@touch $@

$(ETCD):
	tools/fetch-debian.sh etcd-server /usr/bin/etcd $@

$(HAPROXY):
	tools/fetch-debian.sh haproxy /usr/sbin/haproxy $@

replicas: $(INSTALLED) ## restart, kill, pause and cut off replicas under load (ARGS='--rounds 1')
	@$(BIN)/python -m tests.replicas.run $(ARGS)

contend: $(INSTALLED) ## let many clients update few accounts, and run transactions over them
	$(BIN)/python -m tests.crashes.contend $(ARGS)

upgrade: $(INSTALLED) ## run the last version and this one side by side, forth and back (ARGS='--rounds 100')
	$(BIN)/python -m tests.upgrade.run $(ARGS)

trace: $(INSTALLED) ## draw docs/trace.svg: an atomic update as servers export it
	@$(BIN)/python -m tests.tracing.picture

fuzz: $(INSTALLED) ## send the servers what no honest client would (ARGS='--examples 2000')
	$(BIN)/python -m tests.fuzz.run $(ARGS)

simulate: $(INSTALLED) ## run the protocol under seeded faults (SEEDS=0-9999)
	@$(BIN)/python -m tests.simulation.simulate $(SEEDS)

mutate: $(INSTALLED) $(MUTATOR) ## plant faults, and see which ones no test notices (ARGS='core --sample 20')
	.venv-mutate/bin/python -m tools.mutation $(ARGS)

$(MUTATOR): tools/mutation/requirements.txt
	$(PYTHON) -m venv .venv-mutate
	.venv-mutate/bin/python -m pip install --quiet --requirement $<
	@touch $@

docs: $(DOCS) $(MERMAID) $(WORKER) ## build the docs as a site in build/site (needs npm)
	.venv-docs/bin/python tools/docs.py .tools/docs
	.venv-docs/bin/zensical build --clean --strict

$(DOCS): pyproject.toml constraints.txt
	@$(CHECK_PYTHON)
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet --constraint constraints.txt --upgrade pip
	.venv-docs/bin/python -m pip install --quiet --constraint constraints.txt --group docs
	@touch $@

$(MERMAID):
	tools/fetch-npm.sh $(@F) dist/mermaid.min.js .tools/docs/mermaid.min.js
	$(NOTE)

$(WORKER):
	tools/fetch-npm.sh $(@F) shim/index.js .tools/docs/iframe-worker.js
	$(NOTE)

dist: ## build the sdist and the wheel in dist/, and try them as those do who install them
	@$(CHECK_PYTHON)
	tools/dist.sh $(PYTHON)

image: ## build the image of the servers (BUILD='docker build', ARGS='--build-arg BASE=python:3.12-slim')
	$(BUILD) --tag handfast $(ARGS) --file Containerfile .

image-test: $(INSTALLED) $(DEBIAN) ## build the image on a small Debian, and run it (needs root, buildah, podman, runc)
	$(BIN)/pytest tests/image $(ARGS)

$(DEBIAN):
	tools/image-base.sh $@

chart: $(HELM) ## write tests/deploy/rendered: what Helm makes of the chart
	tools/check-chart.sh --write

check: $(INSTALLED) $(GENERATOR) ## run every check below, also after one has failed
	@$(MAKE) --no-print-directory --keep-going $(CHECKS)

check-format: $(INSTALLED) ## … code is formatted
	$(BIN)/ruff format --check

check-lint: $(INSTALLED) ## … no lint
	$(BIN)/ruff check

check-types: $(INSTALLED) ## … types hold, strictly
	$(BIN)/mypy

check-boundaries: $(INSTALLED) ## … packages import only what they may
	$(BIN)/lint-imports --no-logo

check-contracts: $(INSTALLED) ## … contracts are in style, and say who may call each method
	@for project in $(CONTRACTS); do \
	    $(BIN)/buf lint $$project && $(BIN)/buf format --diff --exit-code $$project && \
	    $(BIN)/buf build $$project -o - | $(BIN)/python -m handfast.server.chassis.security.check || exit; \
	done

check-breaking: $(INSTALLED) ## … contracts keep what the last release promised
	tools/check-breaking.sh

check-generated: $(GENERATOR) ## … stubs are what the contracts give
	.venv-generate/bin/python tools/generate.py --check

check-alerts: ## … alerts fire when they should (needs promtool)
	tools/check-alerts.sh

check-image: $(INSTALLED) ## … the Containerfile is in style
	$(BIN)/hadolint Containerfile

check-chart: ## … the chart is in style, and gives what tests read of it (needs Helm)
	tools/check-chart.sh

format: $(INSTALLED) ## format code and contracts
	$(BIN)/ruff format
	$(BIN)/ruff check --fix
	@for project in $(CONTRACTS); do $(BIN)/buf format --write $$project || exit; done

generate: $(GENERATOR) ## generate the stubs from the contracts
	.venv-generate/bin/python tools/generate.py

$(GENERATOR): tools/generate-requirements.txt
	@$(CHECK_PYTHON)
	$(PYTHON) -m venv .venv-generate
	.venv-generate/bin/python -m pip install --quiet --requirement $<
	@touch $@

freeze: check-contracts check-generated ## when releasing: freeze the contracts as they are now
	@[ ! -e protos/released.binpb ] || tools/check-breaking.sh
	$(BIN)/buf build --exclude-source-info --output protos/released.binpb

version: ## when releasing: write another version wherever it stands (VERSION=0.1.0)
	@$(CHECK_PYTHON)
	$(PYTHON) tools/set_version.py $(VERSION)

pins: ## pin the newest version of every dependency in constraints.txt
	@$(CHECK_PYTHON)
	tools/pin.sh $(PYTHON)

grpcurl: $(GRPCURL) ## install grpcurl in .tools/bin (needs Go)

$(GRPCURL):
	GOBIN=$(CURDIR)/.tools/bin go install github.com/fullstorydev/grpcurl/cmd/$(@F)
	$(NOTE)

ghz: $(GHZ) ## install ghz in .tools/bin (needs Go)

$(GHZ):
	GOBIN=$(CURDIR)/.tools/bin go install github.com/bojand/ghz/cmd/$(@F)
	$(NOTE)

go-client: $(GO_CLIENT) ## install what tests of docs/clients.md need of Go (needs Go)

$(GO_CLIENT): docs/clients.md tools/install-client.sh
	tools/install-client.sh Go $(@D)

typescript-client: $(TS_CLIENT) ## install what tests of docs/clients.md need of Node (needs npm)

$(TS_CLIENT): docs/clients.md tools/install-client.sh
	tools/install-client.sh TypeScript $(@D)

promtool: $(PROMTOOL) ## get promtool into .tools/bin (needs apt-get)

$(PROMTOOL):
	tools/fetch-debian.sh prometheus /usr/bin/promtool $@

helm: $(HELM) ## build helm in .tools/bin, which takes minutes (needs Go)

$(HELM):
	GOBIN=$(CURDIR)/.tools/bin go install helm.sh/helm/v3/cmd/$(@F)
	$(NOTE)

pyright: $(PYRIGHT) ## install pyright in .tools, which tests run on what callers are shown (needs npm)

$(PYRIGHT):
	npm install --silent --no-save --no-package-lock --prefix .tools/pyright $(@F)
	$(NOTE)

pgbouncer: $(PGBOUNCER) ## get pgbouncer into .tools/bin (needs apt-get)

$(PGBOUNCER):
	tools/fetch-debian.sh pgbouncer /usr/sbin/pgbouncer $@

clean: ## remove what make installed, but no data
	rm -rf .venv .venv-bench .venv-docs .venv-failover .venv-generate .venv-mutate .tools .cache build dist
