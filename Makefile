# Every command that anyone runs. `make` alone lists them.
#
# What is built goes into one cache outside of the checkout, so that a fresh clone on the same machine is warm:
# KERBSIDE_CACHE, by default ~/.cache/kerbside. Each step's output goes to out/logs/; what you see is one line per step.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

export KERBSIDE_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/kerbside
export CARGO_TARGET_DIR ?= $(KERBSIDE_CACHE)/target
# The user's own cluster is used only when it is named on this command line, never because a shell happens to point at one.
CLUSTER := $(if $(filter command line,$(origin KUBECONFIG)),$(KUBECONFIG))
unexport KUBECONFIG

BIN := $(CARGO_TARGET_DIR)/debug
TESTBED := $(BIN)/kerbside-testbed
STEP := hack/step.sh
# The groups of hack/tools that the cluster tests need, of which a demo does without the last three; the rest is built by who needs it.
TOOLS := etcd kubernetes registry helm containerd cni cloud-node-lifecycle
PACKAGES := cargo tree --workspace --edges normal,build,dev --prefix none --format '{p}' | sort -u | wc -l

##@ Use it
.PHONY: demo
demo: TOOLS := $(filter-out containerd cni cloud-node-lifecycle,$(TOOLS))
demo: build tools ## run the demo: a control plane, eight cars, a job of 60 parts; KUBECONFIG=… uses your cluster
	@$(TESTBED) demo --dir out/demo $(if $(CLUSTER),--kubeconfig $(CLUSTER))

.PHONY: demo-down
demo-down: ## end everything that the demo started, and nothing else
	@if [ -x $(TESTBED) ] && [ -d out/demo ]; then $(TESTBED) down --dir out/demo; else echo "no demo runs from this checkout"; fi

.PHONY: kind-demo
kind-demo: ## the main job on simulated cars inside a cluster made by kind; needs Docker
	@hack/in-cluster.sh kind --check
	@$(MAKE) build
	@VEHICLES=8 hack/in-cluster.sh kind digits

.PHONY: kind-demo-down
kind-demo-down: ## delete the cluster of kind-demo
	@hack/in-cluster.sh kind --down

##@ Check it
# In this order, one after the other: what fails in seconds comes before what takes minutes.
.PHONY: test
.NOTPARALLEL:
STARTED := $(shell date +%s)
test: fmt-check check-deps unit build check-crds deny charts cluster install-test ## what CI checks
	@echo "make test: all passed in $$(($$(date +%s) - $(STARTED))) s"

.PHONY: fmt-check
fmt-check: ## formatting
	@$(STEP) fmt cargo fmt --all --check -- --color never

.PHONY: check-deps
check-deps: ## dependencies between the crates point inward, and core stays pure
	@$(STEP) check-deps hack/check-deps.sh

.PHONY: clippy
clippy: ## lints alone, as an editor runs them; part of unit
	@STEP_TOTAL="$(PACKAGES)" $(STEP) clippy cargo clippy --workspace --all-targets --locked -- -D warnings

.PHONY: unit
unit: ## lints of all targets, and unit tests: no network, no cluster
	@STEP_TOTAL="$(PACKAGES)" $(STEP) unit hack/nextest.sh unit --workspace $(ARGS)

.PHONY: check-crds
check-crds: build ## crds/ is what api/ says
	@$(STEP) check-crds $(BIN)/crds --check crds

.PHONY: charts
charts: ## helm lint, template, kubeconform, and what the charts promise
	@$(STEP) charts hack/charts/check.sh

.PHONY: deny
deny: ## licences, banned and duplicate crates, sources (offline)
	@$(STEP) deny bash -c 'cargo fetch --quiet --locked; PATH="$$(hack/cargo-tools.sh cargo-deny):$$PATH" cargo deny --offline --locked check --hide-inclusion-graph bans licenses sources'

.PHONY: advisories
advisories: ## known vulnerabilities; fetches the RustSec database from GitHub
	@$(STEP) advisories bash -c 'PATH="$$(hack/cargo-tools.sh cargo-deny):$$PATH" cargo deny --locked check advisories'

.PHONY: cluster
cluster: build tools ## cluster tests, on a control plane of their own; ARGS='-E test(hello)' picks some
	@hack/cluster-tests.sh $(TESTBED) $(ARGS)

.PHONY: install-test
install-test: build ## helm install with our images on a real kubelet, a job, upgrade, uninstall without a trace; needs root
	@STEP_TAIL=120 $(STEP) install-test hack/in-cluster.sh kubelet hello

.PHONY: bench-pods
bench-pods: build tools ## how long a Pod takes from bound to running in a car, WebAssembly and containers; the last line is JSON
	@$(TESTBED) bench-pods $(ARGS)

.PHONY: bench-return
bench-return: build tools ## how soon a car's work stands still when its driver returns, its programs uncooperative; the last line is JSON
	@$(TESTBED) bench-return $(ARGS)

.PHONY: forecast
forecast: build ## how often cars' forecasts of their own stays hold, on simulated lives they were not tuned on; the last line is JSON
	@$(BIN)/kerbside-forecast $(ARGS)

.PHONY: bench-privacy
bench-privacy: build ## how well a test attacker knows when cars leave, by what it holds of the cluster's data; the last line is JSON
	@$(TESTBED) bench-privacy $(ARGS)

.PHONY: chaos
chaos: build tools ## a night and a morning with faults: 1,000 simulated cars, 2,000 completions; ARGS for another size
	@$(TESTBED) chaos $(ARGS)

.PHONY: nightly
nightly: build tools ## what takes long: many random worlds, every cluster test twice, the demo; figures to docs/figures/
	@hack/nightly.sh $(TESTBED)

##@ Build it
.PHONY: build
build: ## Kerbside's programs
	@STEP_TOTAL="$(PACKAGES)" $(STEP) build cargo build --workspace --bins --locked

.PHONY: tools
tools: ## the pinned control plane and tools, from their Go modules
	@STEP_TOTAL="hack/tools/build.sh --count $(TOOLS)" $(STEP) tools hack/tools/build.sh $(TOOLS)

.PHONY: images
images: build ## OCI archives of all programs in out/images; needs no container engine
	@$(STEP) images hack/images/build.sh

.PHONY: fmt
fmt: ## format the code
	@cargo fmt --all

.PHONY: crds
crds: build ## generate crds/ and the chart of the CRDs from api/
	@$(BIN)/crds --out crds
	@hack/charts/sync-crds.sh

.PHONY: clean
clean: ## remove out/; what is cached stays in KERBSIDE_CACHE
	@if [ -d out/demo ] && [ -x $(TESTBED) ]; then $(TESTBED) down --dir out/demo; fi
	@rm -rf out

.PHONY: help
help:
	@awk 'BEGIN {FS = ":.*## "} /^##@ / {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
