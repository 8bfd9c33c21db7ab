# The usual commands. `just` lists them; each is one line that can be typed as well.

pixii := "target/release/pixii"

# List the recipes.
default:
    @just --list

# Build the program.
build:
    cargo build --locked --release

# Show what Pixii does, with real daemons.
demo:
    cargo run --locked --release -- demo

# Fast checks: format, lints, structure, mutants apply, documentation.
check:
    cargo fmt --check
    cargo clippy --locked --all-targets -- -D warnings
    cargo test --locked --test architecture
    tests/mutants/run --check
    docs/check

# All tests.
test *ARGS:
    cargo test --locked --release {{ARGS}}

# The simulator on fresh seeds.
sim RUNS="1000": build
    {{pixii}} sim --runs {{RUNS}}

# One run of the simulator again.
seed SEED: build
    {{pixii}} sim --seed {{SEED}} --runs 1

# The digest that a change which only moves code must not change.
digest: build
    {{pixii}} sim --seed 1 --runs 2000 | grep digest

# A drill, for example `just drill kill --rounds 4`.
drill NAME *ARGS: build
    {{pixii}} drill {{NAME}} {{ARGS}}

# Mutants by name; all without one.
mutants *NAMES:
    tests/mutants/run {{NAMES}}

# Hostile bytes, seconds for each target.
fuzz SECONDS="10":
    PIXII_FUZZ_SECONDS={{SECONDS}} \
        cargo test --locked --release --test fuzz -- --nocapture --test-threads 2

# Write the reference pages that follow from the program; check all pages.
docs: build
    docs/generate {{pixii}}
    docs/check
    docs/transcripts {{pixii}}

# Read the documentation in a browser; needs mdbook.
book:
    mdbook serve docs --open

# What has to pass before a change lands.
ci:
    .ci/run
