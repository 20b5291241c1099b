//! What a command says: lines for people, with `--json` one document for programs, and a bar for who watches long work.

use std::fmt::Display;
use std::io::{ErrorKind, Write as _};
use std::time::Duration;

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

/// How a command answers.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    pub json: bool,
}

impl Output {
    /// To standard output; only the form that is asked for is made. Colours are left out where nobody sees them.
    pub fn say<T: Display>(self, text: impl FnOnce() -> T, value: impl FnOnce() -> Value) -> anyhow::Result<()> {
        let mut out = anstream::stdout();
        let written = match self.json {
            true => writeln!(out, "{:#}", value()),
            false => writeln!(out, "{}", text()),
        };
        match written {
            // `| head` has seen enough.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            written => written.context("cannot write to standard output"),
        }
    }

    /// To standard error, and only on a terminal.
    pub fn bar(self, doing: &'static str, total: u64) -> anyhow::Result<ProgressBar> {
        let style = ProgressStyle::with_template("{msg} {wide_bar} {human_pos}/{human_len}, {eta} left").context("the bar's template")?;
        let bar = ProgressBar::new(total).with_style(style).with_message(doing);
        bar.enable_steady_tick(Duration::from_millis(200));
        Ok(bar)
    }
}
