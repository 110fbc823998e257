# The commands of this project. make test needs only Go, make and Debian's packages: it installs what it lacks.

.PHONY: help test lint fmt bin

help:
	@echo "make test   lint, then every module's tests with the race detector against real servers:"
	@echo "            PostgreSQL, Redis and PgBouncer are found or installed, and private instances started."
	@echo "            ENDSTATE_TEST_INSTALL=0 forbids installing; ENDSTATE_TEST_POSTGRES_URL and"
	@echo "            ENDSTATE_TEST_REDIS_URL name servers to use instead. ARGS='-run Race ./finalize' runs less."
	@echo "make lint   gofmt, go vet, staticcheck, each go.mod, and the rules on imports"
	@echo "make fmt    format the code"

test: bin
	@rm -f .test.json
	bin/lint
	bin/testall $(ARGS)

lint: bin
	bin/lint

fmt:
	gofmt -w .

# Built rather than run by go run, which keeps signals and exit statuses to itself, and without a look at git.
bin:
	@go build -buildvcs=false -o bin/ ./tools/lint ./tools/testall
