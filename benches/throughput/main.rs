//! Requests and messages a second, next to bare counterparts built from the same libraries, in the same run.
//!
//! What counts is the ratio; the absolute figures are this machine's. `make bench` runs it on the development services,
//! `cargo bench -- edge` or `-- messages` one half.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a program to be watched")]

#[path = "../../tests/it/support/mod.rs"]
#[expect(dead_code, reason = "shared with tests/it, which uses more of it")]
mod support;

mod bare;
mod edge;
mod load;
mod messages;
mod process;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let is_asked = |what: &str| arguments.iter().any(|argument| argument == what);
    // `cargo test --all-targets` runs benches too; they are for `make bench`.
    if is_asked("--test") {
        return;
    }
    if is_asked("bare") {
        return bare::serve();
    }
    let runtime = || tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let marks = actix_rt::System::with_tokio_rt(runtime).block_on(async {
        let mut marks = Marks::default();
        if !is_asked("messages") {
            edge::run(&mut marks).await;
        }
        if !is_asked("edge") {
            messages::run(&mut marks).await;
        }
        marks
    });
    assert!(marks.missed.is_empty(), "missed: {:#?}", marks.missed);
}

/// Figures, and those that are not what is asked.
#[derive(Default)]
struct Marks {
    missed: Vec<String>,
}

impl Marks {
    fn note(&mut self, figure: String, is_met: bool) {
        println!("{figure}{}", if is_met { "" } else { "   MISSED" });
        if !is_met {
            self.missed.push(figure);
        }
    }
}

/// The middle one.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
