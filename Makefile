# Nightshift's commands. "make help" lists them.
# The Go toolchain is all they need: build tools are compiled from tools/ into .bin, at the versions pinned there.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

BIN := .bin

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

## ---- contracts -----------------------------------------------------------------------------------------------------

.PHONY: generate
generate: $(BIN)/buf $(BIN)/protoc-gen-go ## format proto/ and regenerate gen/ from it
	$(BIN)/buf format --write --path proto/nightshift
	$(BIN)/buf generate

.PHONY: lint-proto
lint-proto: $(BIN)/buf ## check the style of the protos and that they are formatted
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code --path proto/nightshift

.PHONY: breaking
breaking: $(BIN)/buf ## check that the protos break no reader of main (or of the commit before)
	tools/breaking

.PHONY: vendor
vendor: ## rewrite proto/vendor from the Go packages that hold its descriptors
	cd tools/protovalidate && GOWORK=off go run . > ../../proto/vendor/buf/validate/validate.proto.new
	mv proto/vendor/buf/validate/validate.proto.new proto/vendor/buf/validate/validate.proto

## ---- tools: one module each, outside go.work, so that their needs never move a version of the product -----------------

# touch: go leaves a file alone that is current already, and make would ask again every time.
$(BIN)/buf: tools/buf/go.mod tools/buf/go.sum
	cd tools/buf && GOWORK=off go build -o ../../$(BIN)/ tool
	@touch $@

$(BIN)/protoc-gen-go: tools/protoc/go.mod tools/protoc/go.sum
	cd tools/protoc && GOWORK=off go build -o ../../$(BIN)/ tool
	@touch $@
