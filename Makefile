# stoker: `make help` lists the targets.

SHELL := /bin/bash
.DEFAULT_GOAL := help

BUILD   := build
STOKER  := $(BUILD)/stoker
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
SOURCES := $(shell git ls-files -co --exclude-standard -- '*.go' 'engine/worker/*.py' 'engine/pyenv/*' 'bench/driver/*.py' 'packaging/*' go.mod go.sum 2>/dev/null)

# What `stoker setup` makes for demo and tests: the Python environment with vLLM, SmolLM2-135M, and a configuration.
ENGINE  := $(BUILD)/engine
CONFIG  := $(ENGINE)/config.toml
PYTHON  := $(ENGINE)/.venv/bin/python
MODEL    = $(abspath $(ENGINE)/models/SmolLM2-135M-Instruct)
PYTOOLS := $(BUILD)/pytools

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: $(STOKER) ## build the binary, build/stoker

$(STOKER): $(SOURCES)
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.releaseVersion=$(VERSION)' -o $@ ./cmd/stoker

.PHONY: engine
engine: build ## set up vLLM and the demo model in build/engine (once; 3 GB are downloaded)
	$(STOKER) --root $(ENGINE) setup --demo-model

.PHONY: demo
demo: engine ## the main job, from drop to result, on a real model: results stay in ./demo
	examples/demo.sh $(STOKER) $(CONFIG) demo

.PHONY: test
test: test-tools lint test-go test-worker test-packages torture fuzz ## all tests: Go, scripts, the worker, the real engine, all that breaks stoker
	@count() { grep -cE "$$1" $(BUILD)/$$2 || true; }; \
	scripts=$$(count '^ +--- PASS: TestScripts/' test-go.log); go=$$(($$(count '^ *--- PASS' test-go.log) - scripts)); \
	torture=$$(cat $(BUILD)/torture/*.log | grep -cE '^ *--- PASS' || true); \
	worker=$$(grep -oE '[0-9]+ passed' $(BUILD)/test-worker.log | tail -1 | cut -d' ' -f1); \
	packages=$$(count '^ *--- PASS' test-packages.log); \
	echo "Go $$go, scripts $$scripts, Python worker $$worker, packages $$packages, torture $$torture"; \
	echo "$$((go + scripts + worker + packages + torture)) passed, 0 failed"

.PHONY: lint
lint: ## formatting and vet
	@files=$$(gofmt -l $$(git ls-files -co --exclude-standard -- '*.go')); if [ -n "$$files" ]; then echo "gofmt would change: $$files"; exit 1; fi
	go vet ./...
	go vet -tags real,faults,disk,packages,vm ./...
	for os in darwin windows; do GOOS=$$os go vet ./packaging ./packaging/service || exit 1; done

# Runs a command with its output in a log; what is no news is left out when it fails.
quietly = @mkdir -p $(BUILD); echo '$(1)'; $(1) > $(BUILD)/$(2) 2>&1 || { grep -vE '^ *(=== |--- PASS|PASS$$)' $(BUILD)/$(2); exit 1; }

# Tests damage databases. A pointer that bbolt makes of a damaged page is a fault that stoker catches, but Go's check of pointers,
# which comes with the race detector, ends the process.
BBOLT_UNCHECKED = -gcflags=go.etcd.io/bbolt/...=-d=checkptr=0

.PHONY: test-go
test-go: ## Go tests with the race detector, but for the suites of torture
	$(call quietly,go test -race $(BBOLT_UNCHECKED) -v -timeout 30m $(shell go list ./... | grep -vE '^stoker/test/(e2e|kill|storage|torture)'),test-go.log)
	@grep -E '^ok' $(BUILD)/test-go.log

# The suites of torture. `make test` adds the virtual machine (vm), and stoker beside vLLM's own ways (bench).
ONLY ?= ^(sim|sim-planted|e2e|kill|crashdisk|storage|real)$$
test: ONLY = .

.PHONY: torture
torture: test-tools $(if $(MUTANT),,engine) ## all that breaks stoker, as one table; MUTANT=NAME plants a bug, ONLY=REGEXP picks suites
	@rm -rf $(BUILD)/torture
	@if echo vm | grep -qE '$(ONLY)'; then $(MAKE) --no-print-directory packages && test/vm/tools.sh; fi
	@STOKER_TEST_CONFIG=$(abspath $(CONFIG)) STOKER_DEB=$(DEB) go run ./test/torture $(if $(MUTANT),-mutant $(MUTANT)) -only '$(ONLY)' -logs $(BUILD)/torture

.PHONY: test-tools
test-tools:
	@test/tools.sh

.PHONY: test-kill
test-kill: test-tools ## stoker killed at 500 of its system calls, told of errors there, and killed in a batch of a million lines
	$(call quietly,go test -count 1 -parallel 4 -v -timeout 30m ./test/kill,test-kill.log)
	@grep -hE '^ok|drawn with|figures:' $(BUILD)/test-kill.log | sed 's/^ *//'

.PHONY: test-disk
test-disk: test-tools ## POINTS (2000) power cuts on ext4, XFS and Btrfs; needs root, FUSE and loop devices
	$(call quietly,CRASHDISK_POINTS=$(or $(POINTS),2000) go test -tags disk -count 1 -v -timeout 30m ./test/crashdisk/...,test-disk.log)
	@grep -E '^ok|figures:|noticed' $(BUILD)/test-disk.log

.PHONY: test-vm
test-vm: test-tools packages ## the service, installed in a virtual machine: power cuts, reboots, kills, real shares; CUTS (12); needs root, FUSE, loop devices
	@test/vm/tools.sh
	@STOKER_DEB=$(DEB) STOKER_VM_CUTS=$(CUTS) go run ./test/torture -only '^vm$$' -logs $(BUILD)/torture-vm

.PHONY: pytools
pytools: engine
	@test -d $(PYTOOLS)/pytest || { uv=$$(ls $(ENGINE)/.tools/uv 2>/dev/null || command -v uv); \
	  "$$uv" pip install -q --python $(PYTHON) --target $(PYTOOLS) pytest==9.1.0; }

.PHONY: test-worker
test-worker: engine pytools ## the Python worker, its parts and on real vLLM
	@set -o pipefail; cd engine/worker && PYTHONPATH=$(abspath $(PYTOOLS)) PYTHONDONTWRITEBYTECODE=1 STOKER_TEST_MODEL=$(MODEL) \
	  $(abspath $(PYTHON)) -m pytest -q -p no:cacheprovider 2>&1 | tee $(abspath $(BUILD))/test-worker.log

.PHONY: test-real
test-real: engine ## the binary on real vLLM: every kind of request, kills, engines that cannot run
	$(call quietly,STOKER_TEST_CONFIG=$(abspath $(CONFIG)) go test -tags real -count 1 -v -timeout 60m ./test/real,test-real.log)
	@grep -E '^ok|_test.go:' $(BUILD)/test-real.log

.PHONY: bench
bench: engine ## stoker beside what a user would run instead, on this machine; ARGS="--scenario …" as for `stoker bench`
	$(STOKER) --config $(CONFIG) bench $(ARGS)

.PHONY: fuzz
fuzz: ## fuzz all targets for FUZZTOTAL (120s) together, or each of them for FUZZTIME
	@test/fuzz/run.sh $(or $(FUZZTOTAL),120s) $(FUZZTIME)

# Packages' versions sort: 1.2.0 is a release, 1.2.0+3.gabc is three commits after it, 0.1.0~dev.3.gabc is before the first.
PACKAGES := $(BUILD)/packages
DEB       = $(abspath $(PACKAGES)/stoker_$(PACKAGE_VERSION)_amd64.deb)
PACKAGE_VERSION ?= $(shell git describe --tags --match 'v[0-9]*' 2>/dev/null | sed -E 's/^v//; s/-([0-9]+)-g/+\1.g/; s/-/~/g' | grep . \
  || echo "0.1.0~dev.$$(git rev-list --count HEAD).g$$(git rev-parse --short HEAD)")
NFPM := go run github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.2
export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || date +%s)

.PHONY: packages
packages: build ## .deb and .rpm for amd64 and arm64, in build/packages
	@rm -rf $(PACKAGES)
	go run ./packaging/render $(PACKAGES)
	$(STOKER) man $(PACKAGES)/man && gzip -9n $(PACKAGES)/man/*
	@mkdir -p $(PACKAGES)/completion
	$(STOKER) completion bash > $(PACKAGES)/completion/stoker.bash
	$(STOKER) completion zsh > $(PACKAGES)/completion/_stoker
	$(STOKER) completion fish > $(PACKAGES)/completion/stoker.fish
	@set -e; for arch in amd64 arm64; do \
	  $(MAKE) --no-print-directory $(PACKAGES)/$$arch/stoker; \
	  for packager in deb rpm; do \
	    PACKAGE_ARCH=$$arch PACKAGE_VERSION='$(PACKAGE_VERSION)' \
	      $(NFPM) package --config packaging/nfpm.yaml --packager $$packager --target $(PACKAGES); \
	  done; \
	done

$(PACKAGES)/%/stoker: $(SOURCES)
	CGO_ENABLED=0 GOARCH=$* go build -trimpath -ldflags '-s -w -X main.releaseVersion=$(PACKAGE_VERSION)' -o $@ ./cmd/stoker

.PHONY: test-packages
test-packages: packages ## installs the packages, and stoker's service without them, in Debian containers with systemd; needs root
	@test/packages/root.sh $(BUILD)/test-root
	$(call quietly,STOKER_TEST_ROOT=$(abspath $(BUILD)/test-root) STOKER_TEST_PACKAGES=$(abspath $(PACKAGES)) go test -tags packages -count 1 -v -timeout 15m ./test/packages,test-packages.log)
	@grep -E '^ok' $(BUILD)/test-packages.log

.PHONY: clean
clean: ## remove what was built; the downloads stay in uv's cache
	rm -rf $(BUILD) demo
