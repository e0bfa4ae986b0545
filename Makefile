# Targets: `make help`. Nothing here needs a tool beside Go, git and a shell;
# `make test` also needs a C compiler, for the race detector.

ROUNDS   ?= 50
SEED     ?=
RECORDS  ?= 1000000
PAUSED   ?= 1h
FUZZTIME ?= 10s
DEMO     ?=
BENCH    ?=

GO       ?= go
GITSAFE   = git -c safe.directory='*'
VERSION  ?=
COMMIT   ?= $(shell $(GITSAFE) rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
DATE     ?= $(shell $(GITSAFE) log -1 --format=%cI 2>/dev/null || echo unknown)
INFO      = github.com/lockstepdb/lockstep/internal/buildinfo
LDFLAGS   = -s -w $(if $(VERSION),-X $(INFO).Version=$(VERSION)) -X $(INFO).Commit=$(COMMIT) -X $(INFO).Date=$(DATE)
BUILD     = CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)'

# Tests wait for disks and for each other's servers: with one package more than there are processors, these are not idle meanwhile.
CORES        = $(shell getconf _NPROCESSORS_ONLN)
SIDE_BY_SIDE = -p $(shell expr $(CORES) + 1) -parallel $(shell expr 2 '*' $(CORES))
TEST         = -timeout 10m -ldflags=-w $(SIDE_BY_SIDE)

# Faults on real processes take minutes: packages of test/ that `make check` runs, and the everyday `make test` does not.
FAULTS = crash|divergence|failover|faults

# One recipe after the other, whatever -j says: the tests use every core themselves.
.NOTPARALLEL:

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'
	@echo
	@echo "  ROUNDS=$(ROUNDS) and SEED=... steer test-crash, test-chaos (MORE=1: more kinds of steps) and test-switchover, RECORDS=$(RECORDS) test-failback and test-retention, PAUSED=$(PAUSED) test-paused,"
	@echo "  FUZZTIME=$(FUZZTIME) each fuzz target, DEMO='-keep' the demo, BENCH='-only=^write -runs=5' the benchmarks (BENCH=-help lists the rest)."

.PHONY: setup
setup: ## check the tools, download modules, build (safe to repeat)
	@GO='$(GO)' scripts/setup.sh

.PHONY: build
build: need-go ## build bin/lockstep
	@echo "building bin/lockstep (the first time takes a minute or more)"
	@$(BUILD) -o bin/lockstep ./cmd/lockstep

.PHONY: demo
demo: build ## three clusters replicate real data before your eyes
	@bin/lockstep demo $(DEMO)

.PHONY: test
test: need-cc ## unit and end-to-end tests with the race detector
	GOGC=400 $(GO) test -race $(TEST) ./server/replication ./... # the longest first; under the race detector collecting costs more than memory
	cd test && $(GO) test -race $(TEST) $$($(GO) list ./... | grep -vE '/($(FAULTS))$$')
	cd bench && $(GO) test -race $(TEST) ./...

.PHONY: test-faults
test-faults: need-cc ## kills, rot, full disks, and failover in every order, on real processes
	cd test && $(GO) test -race $(TEST) $$($(GO) list ./... | grep -E '/($(FAULTS))$$')

.PHONY: check
check: ## all that must pass before a change is merged; what CI runs
	@$(MAKE) --no-print-directory check-format check-vet check-generated check-tidy check-lint
	@$(MAKE) --no-print-directory test
	@$(MAKE) --no-print-directory test-faults
	@$(MAKE) --no-print-directory test-crash ROUNDS=$(ROUNDS) SEED=$(SEED)
	@$(MAKE) --no-print-directory test-chaos ROUNDS=20 SEED=$(or $(SEED),2026) # the same plans each time: what is red here is the change's
	@$(MAKE) --no-print-directory fuzz FUZZTIME=$(FUZZTIME)
	@echo "check: all passed"

.PHONY: check-format
check-format: ## gofmt, nothing rewritten
	@bad=$$(gofmt -l $$(ls -d */ | grep -v '^bin/')); if [ -n "$$bad" ]; then \
		echo "not formatted, run 'make format':"; echo "$$bad"; exit 1; fi

.PHONY: check-vet
check-vet: ## go vet, all three modules
	$(GO) vet ./...
	cd test && $(GO) vet ./...
	cd bench && $(GO) vet ./...

.PHONY: check-lint
check-lint: ## staticcheck, all three modules
	@mkdir -p .cache/tools
	$(GO) build -modfile=tools/go.mod -o .cache/tools/ honnef.co/go/tools/cmd/staticcheck
	.cache/tools/staticcheck ./...
	cd test && ../.cache/tools/staticcheck ./...
	cd bench && ../.cache/tools/staticcheck ./...

.PHONY: check-generated
check-generated: ## generated code is what proto/ says
	@scripts/generate.sh -check

.PHONY: check-tidy
check-tidy: ## go.mod and go.sum say what is used, no more and no less
	$(GO) mod tidy -diff
	cd test && $(GO) mod tidy -diff
	cd bench && $(GO) mod tidy -diff

.PHONY: generate
generate: ## regenerate proto/replicationpb with the tools of tools/go.mod
	@scripts/generate.sh

.PHONY: format
format: ## gofmt -w
	gofmt -w $$(ls -d */ | grep -v '^bin/')

.PHONY: test-crash
test-crash: ## kill -9 under load, ROUNDS times; SEED repeats a run
	cd test && $(GO) test -count=1 -timeout 0 ./crash -run '^TestCrash$$' -v -rounds=$(ROUNDS) $(if $(SEED),-seed=$(SEED))

.PHONY: test-chaos
test-chaos: ## faults and role changes at random, ROUNDS times, judged by a model; SEED repeats the plans
	cd test && $(GO) test -count=1 -timeout 0 ./chaos -run '^TestChaos$$' -v -rounds=$(ROUNDS) $(if $(SEED),-seed=$(SEED)) $(if $(MORE),-more)

.PHONY: test-switchover
test-switchover: ## planned switchovers under load, ROUNDS of each kind: nothing lost, nothing copied; prints the pause
	cd test && $(GO) test -count=1 -timeout 0 ./failover -run '^TestSwitchover$$' -v -rounds=$(ROUNDS)

.PHONY: test-steps
test-steps: ## kill -9 at each commit of a planned switchover, and of a return that takes a tail back
	cd test && $(GO) test -count=1 -timeout 0 ./failover -run 'SurvivesAKillAtEachStep$$' -v -steps

.PHONY: test-paused
test-paused: ## one of five secondaries stands still for an hour: prints what the others show, and the primary's memory
	cd test && $(GO) test -count=1 -timeout 0 ./failover -run '^TestAPausedSecondaryTroublesNobody$$' -v -paused=$(PAUSED)

.PHONY: test-failback
test-failback: ## a primary comes back with a lost tail, with 10,000 and RECORDS records: prints the bytes on the wire
	cd test && $(GO) test -count=1 -timeout 0 ./failover -run '^TestFailbackCostsTheTail$$' -v -records=$(RECORDS)

.PHONY: test-retention
test-retention: ## a secondary is repaired past retention while one key is overwritten without pause, RECORDS records: prints time and bytes
	cd test && $(GO) test -count=1 -timeout 0 ./failover -run '^TestARepairEnds$$' -v -offline=$(RECORDS)

.PHONY: test-versions
test-versions: ## an older version, built from the repository's history, beside this one in every role; upgrades under load
	cd test && $(GO) test -count=1 -timeout 0 ./failover -run 'Version|Upgrade|Downgrade|OlderRelease' -v -versions

.PHONY: test-divergence
test-divergence: ## rot in a secondary of 1,000,000 records: found, named, repaired
	cd test && $(GO) test -count=1 -timeout 0 ./divergence -run '^TestDivergence$$' -v -records=1000000

.PHONY: test-bootstrap
test-bootstrap: ## fill a secondary with 1,000,000 records under load and kills
	cd test && $(GO) test -count=1 -timeout 0 ./bootstrap -run '^TestBootstrap$$' -v -records=1000000

.PHONY: bench-quick
bench-quick: bench-build ## our own speed as ratios to limits of this machine, in under three minutes
	@.cache/bench/bench -set=quick $(BENCH)

.PHONY: bench
bench: bench-build ## every scenario, and the peers that are installed (bench/peers/NAME/install); takes more than an hour
	@.cache/bench/bench -set=all -out=.cache/bench/results $(BENCH)

.PHONY: bench-large
bench-large: bench-build ## growth to 10,000,000 records; says first how much disk it needs
	@.cache/bench/bench -set=large -out=.cache/bench/results-large $(BENCH)

.PHONY: bench-build
bench-build: build
	@mkdir -p .cache/bench
	@cd bench && $(GO) build -trimpath -buildvcs=false -o ../.cache/bench/bench .

.PHONY: fuzz
fuzz: ## run every fuzz target for FUZZTIME
	@GO='$(GO)' scripts/fuzz.sh $(FUZZTIME)

.PHONY: clean
clean: ## remove what was built here (not Go's caches)
	rm -rf bin .cache

# setup.sh says what is missing, and the line that installs it.
.PHONY: need-go
need-go:
	@command -v '$(firstword $(GO))' >/dev/null 2>&1 || GO='$(GO)' scripts/setup.sh

.PHONY: need-cc
need-cc:
	@scripts/need-cc.sh
