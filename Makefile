# The commands of this project. make test needs only Go, make and Debian's packages: it installs what it lacks.

.PHONY: help test fuzz test-console test-postgres-all test-drivers test-libraries plans models mutation soak bench bench-quick lint release-check tidy fmt bin

DURATION ?= 10m
FINALIZATIONS ?= 1000000
SEED ?= 1
N ?= 100
FUZZTIME ?= 1m

help:
	@echo "make test   lint, fuzz for a moment, then every module's tests with the race detector against real servers:"
	@echo "            PostgreSQL, Redis, PgBouncer and RabbitMQ are found or installed, and private instances started."
	@echo "            ENDSTATE_TEST_INSTALL=0 forbids installing; ENDSTATE_TEST_POSTGRES_URL and"
	@echo "            ENDSTATE_TEST_REDIS_URL name servers to use instead. ARGS='-run Race ./finalize' runs less."
	@echo "make fuzz   each fuzz target for FUZZTIME=$(FUZZTIME), guided by coverage; make test gives each 2,000 inputs. ARGS=Decode runs"
	@echo "            those whose names have it; what is found is written below the package's testdata/fuzz"
	@echo "make test-postgres-all   the same without the race detector, on PostgreSQL 14 to 18, by npm's packages: for releases."
	@echo "            VERSIONS='17 18' and ARGS='./guard ./outbox' run less"
	@echo "make test-drivers   the tests of what works on database/sql, through pgx, lib/pq, pgdriver, modernc's SQLite and mattn's."
	@echo "            DRIVERS='pgdriver mattn' and ARGS='-run Race ./finalize' run less"
	@echo "make test-libraries   the recipes' tests and those of migration tools. LIBRARIES='gorm river' runs less"
	@echo "            Without ARGS, each of the three writes its results into docs/compatibility.md"
	@echo "make test-console   the console in a headless Chromium, which is installed like the servers, with axe-core from npm"
	@echo "make plans  the plans of a relay's readings with ten million events, and of as many of one aggregate; and those of the"
	@echo "            console's pages with a million, whose costs it writes into docs/console.md"
	@echo "make models  has Spin exhaust the models in docs/models, and find the bugs that are seeded in them"
	@echo "make mutation  changes the code in N=100 places that SEED=1 draws, and expects a test to fail at each; a run that is"
	@echo "            interrupted goes on. docs/mutation.md has what was found. ARGS='guard outbox' is for fewer packages"
	@echo "make soak   producers, relays and consumers over PostgreSQL, Redis, NATS and Kafka under faults, in rounds, until"
	@echo "            FINALIZATIONS=$(FINALIZATIONS) are done, or DURATION=$(DURATION) has passed: then the next make soak goes on."
	@echo "            SEED=$(SEED) is for a run that begins, the summary is docs/soak.md, and rm soak/.run.json begins another run"
	@echo "make bench  the library beside hand-written pgx, River, Watermill-SQL, DBOS and redislock, on servers of its own:"
	@echo "            tables of rates, allocations and latencies, into bench/results and docs/performance.md; about an hour."
	@echo "            The machine should have nothing else to do. ARGS='-only relay' runs less and leaves the others' results,"
	@echo "            ARGS='-full 10000000' compares so many finalized keys with an empty database. make bench-quick prints"
	@echo "            JSON in less than a minute"
	@echo "make lint   gofmt, go vet, staticcheck, each go.mod, and the rules on imports"
	@echo "make release-check   what a release promises, of each module that users install: installable by its version, what"
	@echo "            its API breaks since the last tag, golden vectors, its dependencies' licences, a small zip"
	@echo "make tidy   go mod tidy in every module, as if the version to come were published"
	@echo "make fmt    format the code"

test: bin
	@rm -f .test.json
	bin/lint
	$(if $(ARGS),,bin/fuzz -time 2000x)
	bin/testall $(ARGS)

fuzz: bin
	bin/fuzz -guided -time $(FUZZTIME) $(ARGS)

test-postgres-all: bin
	.ci/postgres-all $(ARGS)

test-drivers: bin
	.ci/drivers $(ARGS)

test-libraries: bin
	.ci/libraries

test-console: bin
	GOFLAGS=-tags=browser bin/testall -browser -race=false $(ARGS) ./console/browser/...

plans: bin
	ENDSTATE_TEST_PLAN_ROWS=10000000 bin/testall -race=false -run 'TestPlansOfReadings|TestManyEventsOfOneAggregateLetOthersPass' ./outbox/relay
	ENDSTATE_TEST_PLAN_ROWS=1000000 ENDSTATE_TEST_PLAN_WRITE=1 bin/testall -race=false -run TestPlansOfPages ./console

models: bin
	bin/models -table docs/models/results.md $(ARGS)

mutation:
	@go build -buildvcs=false -o bin/ ./tools/mutation
	bin/mutation -seed $(SEED) -n $(N) $(ARGS)

soak:
	cd soak && ENDSTATE_TEST_REQUIRE=1 ENDSTATE_TEST_SOAK_STATE=.run.json ENDSTATE_TEST_SOAK_PAGE=../docs/soak.md \
		ENDSTATE_TEST_SOAK_FINALIZATIONS=$(FINALIZATIONS) ENDSTATE_TEST_SOAK_DURATION=$(DURATION) ENDSTATE_TEST_SOAK_SEED=$(SEED) \
		go test -buildvcs=false -count=1 -timeout 0 -v -run '^TestHistories$$' .

bench:
	@mkdir -p bench/results
	cd bench && go run -buildvcs=false . -out results/bench.json -chart results/bench.svg -page ../docs/performance.md $(ARGS)

bench-quick:
	@cd bench && go run -buildvcs=false . -quick -json $(ARGS)

lint: bin
	bin/lint

release-check: bin
	bin/release

tidy: bin
	bin/tidy

fmt:
	gofmt -w .

# Built rather than run by go run, which keeps signals and exit statuses to itself, and without a look at git.
bin:
	@go build -buildvcs=false -o bin/ ./tools/lint ./tools/testall ./tools/release ./tools/tidy ./tools/walk ./tools/models ./tools/fuzz
