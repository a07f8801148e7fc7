//! llama.cpp's own log as lines of ours: errors and warnings keep their level, what it calls information is detail to us.

use std::ffi::{CStr, c_char, c_void};

use llama_cpp_sys_2::{GGML_LOG_LEVEL_CONT, GGML_LOG_LEVEL_ERROR, GGML_LOG_LEVEL_INFO, GGML_LOG_LEVEL_WARN, ggml_log_level, llama_log_set};
use parking_lot::Mutex;
use tracing::Level;

/// A line without an end is let go at so many bytes.
const LONGEST_LINE: usize = 4096;
/// What it calls errors and warnings where a decode was stopped because nobody wanted it any more (its status 1): nothing is wrong.
const STOPPED: [&str; 4] = [
    "graph_compute_async failed with error 1",
    "failed to compute graph, compute status: 1",
    "removing memory module entries",
    "failed to decode, ret = 2",
];

static LINES: Mutex<Lines> = Mutex::new(Lines { level: Level::DEBUG, open: String::new() });

/// From here on llama.cpp and ggml log through `tracing`.
pub(super) fn listen() {
    // SAFETY: the callback is a function of this program and wants no data of its own.
    unsafe { llama_log_set(Some(heard), std::ptr::null_mut()) };
}

unsafe extern "C" fn heard(level: ggml_log_level, text: *const c_char, _data: *mut c_void) {
    if text.is_null() {
        return;
    }
    // SAFETY: llama.cpp hands over a C string that stays as it is until this returns.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let lines = LINES.lock().take_in(level, &text);
    for (level, line) in lines {
        match level {
            Level::ERROR => tracing::error!("llama.cpp: {line}"),
            Level::WARN => tracing::warn!("llama.cpp: {line}"),
            Level::DEBUG => tracing::debug!("llama.cpp: {line}"),
            _ => tracing::trace!("llama.cpp: {line}"),
        }
    }
}

/// Puts lines together: a message may come in pieces, of which only the first one has a level.
struct Lines {
    level: Level,
    open: String,
}

impl Lines {
    /// The lines that are whole with this piece.
    fn take_in(&mut self, level: ggml_log_level, text: &str) -> Vec<(Level, String)> {
        let mut whole = Vec::new();
        if level != GGML_LOG_LEVEL_CONT {
            // The last message had no end and gets none.
            self.close(&mut whole);
            self.level = match level {
                GGML_LOG_LEVEL_ERROR => Level::ERROR,
                GGML_LOG_LEVEL_WARN => Level::WARN,
                GGML_LOG_LEVEL_INFO => Level::DEBUG,
                _ => Level::TRACE,
            };
        }
        for part in text.split_inclusive('\n') {
            self.open.push_str(part);
            if part.ends_with('\n') || self.open.len() >= LONGEST_LINE {
                self.close(&mut whole);
            }
        }
        whole
    }

    fn close(&mut self, whole: &mut Vec<(Level, String)>) {
        let line = std::mem::take(&mut self.open);
        let line = line.trim_end();
        if !line.is_empty() {
            let stopped = STOPPED.iter().any(|part| line.contains(part));
            whole.push((if stopped { Level::DEBUG } else { self.level }, line.to_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use llama_cpp_sys_2::{GGML_LOG_LEVEL_DEBUG, GGML_LOG_LEVEL_NONE};

    use super::*;

    #[test]
    fn pieces_become_lines_of_the_first_ones_level() {
        let check = |pieces: &[(ggml_log_level, &str)], expected: &[(Level, &str)]| {
            let mut lines = Lines { level: Level::DEBUG, open: String::new() };
            let got: Vec<_> = pieces.iter().flat_map(|(level, text)| lines.take_in(*level, text)).collect();
            let got: Vec<_> = got.iter().map(|(level, text)| (*level, text.as_str())).collect();
            assert_eq!(got, expected, "{pieces:?}");
        };
        let (cont, info, error) = (GGML_LOG_LEVEL_CONT, GGML_LOG_LEVEL_INFO, GGML_LOG_LEVEL_ERROR);
        check(&[(error, "no such file\n")], &[(Level::ERROR, "no such file")]);
        check(&[(GGML_LOG_LEVEL_WARN, "a\nb\n\n")], &[(Level::WARN, "a"), (Level::WARN, "b")]);
        check(&[(info, "load"), (cont, "ing ."), (cont, ".\n")], &[(Level::DEBUG, "loading ..")]);
        check(
            &[(info, "cut"), (error, "bad\n"), (cont, "more\n")],
            &[(Level::DEBUG, "cut"), (Level::ERROR, "bad"), (Level::ERROR, "more")],
        );
        check(
            &[(cont, "first of all\n"), (GGML_LOG_LEVEL_DEBUG, "x\n"), (GGML_LOG_LEVEL_NONE, "y\n"), (77, "z\n")],
            &[(Level::DEBUG, "first of all"), (Level::TRACE, "x"), (Level::TRACE, "y"), (Level::TRACE, "z")],
        );
        let (stopped, failed) = ("failed to compute graph, compute status: 1", "failed to compute graph, compute status: -1");
        check(&[(error, &format!("{stopped}\n")), (error, &format!("{failed}\n"))], &[(Level::DEBUG, stopped), (Level::ERROR, failed)]);
        check(&[(info, &"x".repeat(LONGEST_LINE))], &[(Level::DEBUG, &"x".repeat(LONGEST_LINE))]);
    }
}
