//! How far a pull is: a bar in a terminal, a line every tenth of the way elsewhere.

use std::io::Write;

use indicatif::{ProgressBar, ProgressStyle};

use super::human;

/// Where messages and progress go.
pub struct Progress {
    bar: Option<ProgressBar>,
    terminal: bool,
    out: Box<dyn Write + Send>,
    total: Option<u64>,
    /// Tenths already told, without a terminal.
    told: u64,
}

impl std::fmt::Debug for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Progress").field("terminal", &self.terminal).field("total", &self.total).finish_non_exhaustive()
    }
}

impl Progress {
    /// On standard error.
    pub fn new(terminal: bool) -> Self {
        Self { bar: None, terminal, out: Box::new(std::io::stderr()), total: None, told: 0 }
    }

    /// Plain lines into `out`.
    #[cfg(test)]
    pub fn lines(out: Box<dyn Write + Send>) -> Self {
        Self { bar: None, terminal: false, out, total: None, told: 0 }
    }

    /// One line of text; a bar moves out of its way.
    pub fn say(&mut self, text: &str) {
        let out = &mut self.out;
        // Nobody is left to tell when standard error is closed.
        let mut write = || drop(writeln!(out, "{text}"));
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    /// A transfer begins: `done` of `total` bytes are already here.
    pub fn start(&mut self, done: u64, total: Option<u64>) {
        self.total = total;
        self.told = tenths(done, total);
        if !self.terminal {
            return;
        }
        let template = match total {
            Some(_) => "{bar:32} {decimal_bytes}/{decimal_total_bytes}  {decimal_bytes_per_sec}  {eta} left",
            None => "{spinner} {decimal_bytes}  {decimal_bytes_per_sec}",
        };
        let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
        bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_position(done);
        bar.reset_eta();
        self.bar = Some(bar);
    }

    /// Now `done` bytes are here.
    pub fn at(&mut self, done: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        }
        let now = tenths(done, self.total);
        if !self.terminal && now > self.told {
            self.told = now;
            let of = self.total.map(human).unwrap_or_default();
            self.say(&format!("{:>3} %  {} of {of}", now * 10, human(done)));
        }
    }

    /// The transfer is over, well or not.
    pub fn stop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn tenths(done: u64, total: Option<u64>) -> u64 {
    total.filter(|total| *total > 0).map_or(0, |total| done.saturating_mul(10) / total)
}
