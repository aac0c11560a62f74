# `just check` is what CI runs, stage for stage.

check:
    bash .ci/run

fmt:
    cargo fmt --all

lint:
    bash .ci/lint

test:
    cargo test --workspace

deny:
    bash .ci/deny

# The AMQP kit against a broker of its own; needs python3, amqp-tools, nmap.
interop:
    STRICT=1 bash tests/interop/run.sh

# The long crash tests: 300 kills, 10 records of 320 power cuts, a million messages over a kill.
soak:
    CBROKER_SOAK_ROUNDS=300 CBROKER_SOAK_LIFE_MS=1000 CBROKER_SOAK_RECORDS=10 \
        cargo test -p cbroker-storage --test store -- kill power
    CBROKER_SOAK_WAITING=1000000 cargo test --test storage -- --nocapture

# Side by side with a RabbitMQ of its own; see benches/README.md.
bench:
    bash benches/compare/run.sh
