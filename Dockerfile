# One image for every role: `docker run … user-service --role api|worker|both`.
FROM rust:1.95-bookworm AS build
WORKDIR /build
# Dependencies first, against empty sources: this layer lasts until Cargo.lock changes.
COPY Cargo.toml Cargo.lock askama.toml ./
RUN mkdir -p src benches/throughput tests/it tests/chaos tests/timing \
 && echo 'fn main() {}' | tee src/main.rs benches/throughput/main.rs >/dev/null && touch src/lib.rs \
 && touch tests/it/main.rs tests/chaos/main.rs tests/timing/main.rs \
 && cargo build --release --locked --bin user-service
COPY migrations migrations
COPY src src
# The copied files may be older than the empty ones that were built.
RUN touch src/main.rs src/lib.rs && cargo build --release --locked --bin user-service

# Nothing runs in the image that is shipped, so that the same bases and commit make the same image (`make image`).
FROM debian:bookworm-slim
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /build/target/release/user-service /usr/local/bin/user-service
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=4s --start-period=20s --retries=3 CMD ["user-service", "healthcheck"]
ENTRYPOINT ["user-service"]
CMD ["serve", "--role", "both"]
