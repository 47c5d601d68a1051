# Nightshift's commands; "make help" lists them. Go, make and bash are all they need: build tools are compiled from
# tools/ into .bin, at the versions pinned there, and "make test" installs PostgreSQL where it is missing.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

BIN := .bin
MODULES := gen pkg services examples

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -ldflags "-X nightshift.dev/pkg/app.Version=$(VERSION)"

# ARGS is handed on: make run ARGS="--once --demo", make test ARGS="-run TestLayers".
ARGS ?=

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# ---- run -------------------------------------------------------------------------------------------------------------

# exec: Ctrl-C reaches nightshift alone, and no shell stays behind.
.PHONY: run
run: ## build and start everything in one process: make run ARGS="--help"
	@go build $(LDFLAGS) -o $(BIN)/ ./services/cmd/nightshift
	@exec $(BIN)/nightshift up $(ARGS)

.PHONY: build
build: ## build every binary into .bin
	go build $(LDFLAGS) -o $(BIN)/ ./services/cmd/...

# ---- test ------------------------------------------------------------------------------------------------------------

.PHONY: test
test: test-needs ## run every test with the race detector, installing what they need
	go test -race -timeout 25m $(ARGS) work

.PHONY: test-needs
test-needs:
	@tools/compiler
	@echo "PostgreSQL: $$(go run ./pkg/devstack/findpg)"

# About half an hour. The same seed strikes in the same way: make chaos ARGS="-seed 7 -kills 50 -duration 1m -run TestScans".
.PHONY: chaos
chaos: test-needs ## kill, freeze and cut off everything for half an hour: make chaos ARGS="-kills 50 -duration 1m"
	go test -count=1 -timeout 45m -v ./services/chaos -full $(ARGS)

.PHONY: bench
bench: ## run the benchmarks: make bench ARGS="-bench Ingest -count 6"
	go test -run '^$$' -bench . -benchmem $(ARGS) work

# ---- check -----------------------------------------------------------------------------------------------------------

# In the order of cost. Everything after vet finds its packages compiled.
.PHONY: check
check: fmt-check lint-proto breaking generate-check vet modules-check ## everything that .ci/run checks beside the tests

.PHONY: fmt
fmt: $(BIN)/buf ## format Go and protos
	gofmt -w $(MODULES) tools
	$(BIN)/buf format --write --path proto/nightshift

.PHONY: fmt-check
fmt-check:
	@wrong=$$(gofmt -l $(MODULES) tools); [[ -z $$wrong ]] || { echo "not formatted, run make fmt:" $$wrong; exit 1; }

.PHONY: vet
vet:
	go vet work

# The workspace hides a missing require and an import that points upwards; without it neither compiles.
.PHONY: modules-check
modules-check:
	@for m in $(MODULES); do \
		echo "$$m: go build and go mod tidy without the workspace"; \
		(cd $$m && GOWORK=off go build ./... && GOWORK=off go mod tidy -diff); \
	done

.PHONY: lint
lint: $(BIN)/golangci-lint ## run the linters of .golangci.yml; compiling them takes minutes, once
	$(BIN)/golangci-lint run $(MODULES:%=./%/...)

# ---- contracts -------------------------------------------------------------------------------------------------------

.PHONY: generate
generate: $(BIN)/buf $(BIN)/protoc-gen-go ## format proto/, regenerate gen/ from it, and the pages that are made from code
	$(BIN)/buf format --write --path proto/nightshift
	$(BIN)/buf generate
	go test ./services ./pkg/bus -run 'Current$$' -update
	go test ./services/persistence -run RolesFileCurrent -update

# Compares with a copy made elsewhere, so that it tells the truth in a working tree with changes, too. That the pages
# are current, the tests check.
.PHONY: generate-check
generate-check: $(BIN)/buf $(BIN)/protoc-gen-go
	@fresh=$$(mktemp -d); trap 'rm -rf "$$fresh"' EXIT; \
	$(BIN)/buf generate -o "$$fresh"; \
	diff -r gen/nightshift "$$fresh/gen/nightshift" >/dev/null || { echo "gen/ is not what proto/ says, run make generate:"; diff -rq gen/nightshift "$$fresh/gen/nightshift"; exit 1; }; \
	echo "gen/ is current"

.PHONY: lint-proto
lint-proto: $(BIN)/buf ## check the style of the protos
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code --path proto/nightshift

.PHONY: breaking
breaking: $(BIN)/buf ## check that the protos break no reader of main (or of the commit before)
	@tools/breaking

.PHONY: vendor
vendor: ## rewrite proto/vendor from the Go package that holds its descriptor
	cd tools/protovalidate && GOWORK=off go run . > ../../proto/vendor/buf/validate/validate.proto.new
	mv proto/vendor/buf/validate/validate.proto.new proto/vendor/buf/validate/validate.proto

# ---- tools: one module each, outside go.work, so that what they need never moves a version of the product ------------

# touch: go leaves a file alone that is current already, and make would ask again every time.
define tool
	cd tools/$(1) && GOWORK=off go build -o ../../$(BIN)/ tool
	@touch $@
endef

$(BIN)/buf: tools/buf/go.mod tools/buf/go.sum
	$(call tool,buf)

$(BIN)/protoc-gen-go: tools/protoc/go.mod tools/protoc/go.sum
	$(call tool,protoc)

$(BIN)/golangci-lint: tools/golangci/go.mod tools/golangci/go.sum
	$(call tool,golangci)

.PHONY: clean
clean: ## remove what was built; data in .nightshift stays
	rm -rf $(BIN) coverage
