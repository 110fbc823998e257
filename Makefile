# The commands of this project. make test needs only Go, make and Debian's packages: it installs what it lacks.

.PHONY: help test lint fmt bench bench-quick

help:
	@echo "make test   lint, then every module's tests against real servers (started for it)"
	@echo "make lint   gofmt, go vet, staticcheck, and the rules on imports"
	@echo "make fmt    format the code"
	@echo "make bench  the library beside hand-written pgx, as ratios (make bench-quick: noisier, in under two minutes)"

test: lint
	go run ./tools/testall

lint:
	go run ./tools/lint

fmt:
	gofmt -w .

bench:
	go run ./bench

bench-quick:
	go run ./bench -quick
