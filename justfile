# Shortcuts; each is a plain command that works without just.

# Formats all sources.
fmt:
    cargo fmt --all

# What a change is held to, without the tests.
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --locked -- -D warnings

# All tests, real servers included; `just test e2e -k reload` for a part.
test *ARGS:
    tests/run {{ARGS}}

# A measurement: `just bench passthrough`, `just bench batching`.
bench NAME *ARGS:
    cargo run --release -p outrigger-tests --bin bench -- {{NAME}} {{ARGS}}

# Batching before your eyes.
demo *ARGS:
    cargo run --release -- demo {{ARGS}}
