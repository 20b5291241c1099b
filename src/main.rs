//! Parses the command line, runs it, turns the result into an exit code.

use std::process::ExitCode;

use clap::Parser as _;
use user_service::cli::{self, Cli};

fn main() -> ExitCode {
    let cli = Cli::parse();
    // One TLS provider for every client in the process; a second call could only repeat the first.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    // Connections and background parts live on this runtime; actix gives each of its workers another one.
    let runtime = || match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("user-service: no runtime: {error}");
            std::process::exit(1)
        }
    };
    match actix_rt::System::with_tokio_rt(runtime).block_on(cli::run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("user-service: {error:#}");
            ExitCode::from(cli::exit_code(&error))
        }
    }
}
