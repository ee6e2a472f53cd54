# Two commands do everything on a fresh Debian 12 with Rust, git and make:
#   make demo    builds and runs the main job: three nodes, a custodian, a PostgreSQL, and what they do together
#   make test    everything that CI runs
# `make check` is the inner loop; `eval "$$(make -s env)"` sets what cargo needs in your shell.

# Build caches lie outside the checkout: a fresh clone is quick the second time.
CACHE            ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/quorate
ROCKSDB          := $(CACHE)/rocksdb-0.25.0
TOOLS            := $(CACHE)/tools
export CARGO_TARGET_DIR ?= $(CACHE)/target
# RocksDB is compiled once, with optimisation, and linked by every profile and feature set.
export ROCKSDB_LIB_DIR := $(ROCKSDB)/lib
export ROCKSDB_STATIC  := 1
export PATH := $(TOOLS)/bin:$(PATH)
export QUORATE_BIN := $(CARGO_TARGET_DIR)/debug/quorate
# With what an example needs: `setup` makes it.
export QUORATE_PYTHON := $(CACHE)/python/bin/python
# A stand-in for AWS.
export QUORATE_MOTO := $(CACHE)/moto/bin/python

.PHONY: demo test check lint unit points churn scale million simulate simulate-mutants bench bench-leases versus vectors memcheck fuzz hostile asan deny build setup env

demo: build
	@$(CARGO_TARGET_DIR)/debug/demo

test: lint unit vectors memcheck deny

# The inner loop: everything but the whole-process tests.
check: lint
	cargo nextest run $(TESTED) -E 'not package(quorate-tests)'

build: setup
	cargo build --locked --workspace --bins

lint: setup
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets --features quorate/failpoints,quorate/engines -- -D warnings

# One set of packages and features for everything that is built here, so that nothing is built twice.
TESTED := --locked --workspace --features quorate/failpoints,quorate/engines

# All tests, those on real processes with a real PostgreSQL and real signals among them.
unit: setup
	cargo build $(TESTED) --tests --bins --examples
	cargo nextest run $(TESTED)
	cargo test $(TESTED) --doc --quiet

# Nodes hit at every point: the leader at those of a lease's life and of a rotation, at every kind of target; a member at those of a key generation, and at
# every change to its disk while it takes over a state or keeps an image of its own. More than an hour, and tables. ACTIONS=kill,stop and KINDS=aws,redis choose.
ACTIONS := all
KINDS   :=
points: setup
	cargo build $(TESTED) --bins --tests
	QUORATE_POINTS=$(ACTIONS) QUORATE_KINDS=$(KINDS) cargo test $(TESTED) --no-fail-fast $(POINTS) -- --nocapture that_is_hit hit_at_each_step
POINTS  := --test e2e_crashpoints --test e2e_targets --test e2e_ceremony --test cluster

# Leases before the independent auditor, with nodes killed all the time; QUORATE_SEED=... repeats a run's choices.
MINUTES := 30
churn: setup
	cargo build $(TESTED) --bins --test e2e_auditor
	QUORATE_MINUTES=$(MINUTES) cargo test $(TESTED) --test e2e_auditor -- --exact churn::an_auditor_finds_nothing_wrong --nocapture

# Leases in numbers, at a real cluster of the release build and a real PostgreSQL, beside a target that is slow and one that says nothing;
# KILL=1 kills the leader while they expire, AT_MOST=60 fails when the last is gone later than 60 s. Prints what it has measured.
LEASES := 10000
scale: setup
	cargo build --release --locked --workspace --bins --test in_process
	$(CARGO_TARGET_DIR)/release/scale $(LEASES)

# The same for a million at a target in memory: some GB of disk, and an hour.
MILLION := 1000000
million: setup
	LEASES=$(MILLION) cargo test --release --locked --workspace --bins --test in_process -- --ignored --exact million::a_million_leases --nocapture

# The vault beside its peers: figures, ratios of interleaved rounds, pictures, in the folder REPORT. About two hours on two cores, which
# nothing else should use; PLAN="--operations open,write --rounds 3" is a short one. What ends and what takes over are apart.
REPORT := $(CACHE)/report
PLAN   :=
bench: setup
	crates/bench/fetch-peers $(CACHE)/peers
	cargo build --release --locked -p quorate -p quorate-bench
	$(BENCH) run $(PEERS) --out $(REPORT) $(PLAN)
bench-leases: setup
	crates/bench/fetch-peers $(CACHE)/peers
	cargo build --release --locked -p quorate -p quorate-bench
	$(BENCH) ends $(PEERS) --out $(REPORT) --leases 1000
	$(BENCH) failover $(PEERS) --out $(REPORT)
BENCH := $(CARGO_TARGET_DIR)/release/quorate-bench
PEERS := --quorate $(CARGO_TARGET_DIR)/release/quorate --peers $(CACHE)/peers

# Leases here and at OpenBao under the same faults, judged at the database: one table, in a new folder. Takes root, or sudo, an hour, and two cores which
# nothing else should use. SIDES="--parts 2 --seconds 120" is a short one.
SIDES := --parts 4 --seconds 180 --outage 900
versus: setup
	crates/bench/fetch-peers $(CACHE)/peers
	cargo build --release --locked -p quorate -p quorate-chaos
	$(if $(filter 0,$(shell id -u)),,sudo) $(CARGO_TARGET_DIR)/release/chaos versus $(SIDES) --program $(CARGO_TARGET_DIR)/release/quorate --openbao $(CACHE)/peers/bao --out $(CACHE)/versus-$(shell date +%s)

# The whole cluster in one process, a seed for each run: the release build, SEEDS of them from FIRST on, with MEMBERS members. What does not hold
# names its seed, and the command that repeats it to the byte.
SEEDS   := 10000
FIRST   := 0
MEMBERS := 3
simulate: setup
	SEEDS=$(SEEDS) FIRST=$(FIRST) MEMBERS=$(MEMBERS) cargo test --release --locked -p quorate-simulation --test cluster -- --ignored --exact many_seeds --nocapture

# Bugs of the members that the simulation has to find, and the same seeds without them: prints the table of crates/simulation/README.md, in some minutes.
simulate-mutants: setup
	cargo test $(TESTED) --test cluster -- --ignored --exact every_bug_is_found_and_its_seed_holds_without_it --nocapture

# The second implementation, in both directions.
vectors: unit
	python3 tests/vectors/selftest.py
	python3 tests/vectors/make_vectors.py --check
	$(CARGO_TARGET_DIR)/debug/examples/vectors emit 20 | python3 tests/vectors/check_vectors.py
	$(CARGO_TARGET_DIR)/debug/examples/vectors check < tests/vectors/python.json

# Codecs and cryptography under valgrind: reads of what was never written, accesses out of bounds. No rebuild.
VALGRIND  := valgrind --quiet --error-exitcode=99 --leak-check=no
MEMCHECK  := (package(quorate-crypto) & test(/golden::|sealed_versions|key_files_are|a_value_opens|what_is_encoded/)) \
             + (package(quorate-state) & binary(machine) & test(/^golden::(commands|outcomes)/)) \
             + (package(quorate-audit) & test(/golden_file|one_record/)) + (package(quorate-raft) & test(/codec/)) \
             + (package(quorate-tests) & binary(fuzz) & test(every_target))
memcheck: unit
	CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="$(VALGRIND)" FUZZ_MILLIS=50 cargo nextest run $(TESTED) -E '$(MEMCHECK)'

# The fuzz targets under libFuzzer, each for SECONDS, and all of them ROUNDS times, guided by coverage; what is new goes to fuzz/corpus, and a line for each to
# the ledger. TARGETS="header command" names some.
SECONDS := 60
ROUNDS  := 1
SANCOV  := -Ctarget-cpu=x86-64-v2 -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=3 \
           -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
           -Cllvm-args=-sanitizer-coverage-trace-compares
fuzz: setup
	cp Cargo.lock fuzz/Cargo.lock
	CARGO_INCREMENTAL=0 RUSTFLAGS="$(SANCOV)" CARGO_TARGET_DIR=$(CACHE)/fuzz cargo build --release --manifest-path fuzz/Cargo.toml --target $(shell rustc -vV | sed -n 's/host: //p')
	fuzz/run $(CACHE)/fuzz/$(shell rustc -vV | sed -n 's/host: //p')/release/decoders $(SECONDS) $(ROUNDS) $(CACHE)/fuzz/ledger.tsv $(TARGETS)

# What `make test` tries a seeded few of, all of it: every cut of what a target says, and 20,000 damages of it. Some hours.
hostile: setup
	QUORATE_CASES=all cargo nextest run $(TESTED) --no-capture -E '$(HOSTILE)'
HOSTILE := binary(hostile_bytes)

# The pure crates under AddressSanitizer, which this compiler has but does not admit to: once before a release, for it builds all anew.
# What a test leaves behind when one of its threads panics is no error.
asan: setup
	ASAN_OPTIONS=detect_leaks=0 RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Ctarget-cpu=x86-64-v2 -Zsanitizer=address" CARGO_TARGET_DIR=$(CACHE)/asan \
	  cargo test --locked -p quorate-crypto -p quorate-state -p quorate-audit --lib --tests --target $(shell rustc -vV | sed -n 's/host: //p') -- --skip instructions --skip are_found

deny: setup
	cargo deny --locked check bans licenses sources

# What the build and the tests need: packages, RocksDB, cargo tools. Does nothing where all is there.
setup:
	@deploy/build/setup "$(CACHE)"

env:
	@echo 'export CARGO_TARGET_DIR="$(CARGO_TARGET_DIR)" ROCKSDB_LIB_DIR="$(ROCKSDB_LIB_DIR)" ROCKSDB_STATIC=1 QUORATE_BIN="$(QUORATE_BIN)" QUORATE_PYTHON="$(QUORATE_PYTHON)" QUORATE_MOTO="$(QUORATE_MOTO)" PATH="$(TOOLS)/bin:$$PATH"'
