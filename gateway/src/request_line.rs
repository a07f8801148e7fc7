//! The one log line of a request, written straight: fmt's own formatter, field by field through `Debug`, took several
//! microseconds for it, a tenth of all that a request costs. Every other event is fmt's business, and a terminal's colours are.

use std::fmt::{self, Debug, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::json;
use crate::record::REQUEST_LINE;

/// Writes a request's line as `rest` would, and leaves other events to it.
#[derive(Debug)]
pub(crate) struct RequestLines<F> {
    pub rest: F,
    pub json: bool,
    /// The second that was last written, and its text.
    second: Mutex<(u64, String)>,
}

impl<F> RequestLines<F> {
    pub fn new(rest: F, json: bool) -> Self {
        Self { rest, json, second: Mutex::default() }
    }

    /// `2026-11-26T20:49:42.123456Z`
    fn time(&self, now: Duration, out: &mut String) {
        let mut second = self.second.lock();
        if second.0 != now.as_secs() || second.1.is_empty() {
            *second = (now.as_secs(), date(now.as_secs()));
        }
        out.push_str(&second.1);
        let _ = write!(out, ".{:06}Z", now.subsec_micros());
    }
}

impl<S, N, F> FormatEvent<S, N> for RequestLines<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        if event.metadata().target() != REQUEST_LINE || writer.has_ansi_escapes() {
            return self.rest.format_event(context, writer, event);
        }
        let mut line = Line { out: String::with_capacity(512), json: self.json };
        line.out.push_str(if self.json { "{\"timestamp\":\"" } else { "" });
        self.time(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(), &mut line.out);
        let level = event.metadata().level();
        if self.json {
            let _ = write!(line.out, "\",\"level\":\"{level}\"");
        } else {
            let _ = write!(line.out, " {level:>5} {REQUEST_LINE}:");
        }
        event.record(&mut line);
        if self.json {
            let _ = write!(line.out, ",\"target\":\"{REQUEST_LINE}\"}}");
        }
        line.out.push('\n');
        writer.write_str(&line.out)
    }
}

/// Takes the fields of one event.
struct Line {
    out: String,
    json: bool,
}

impl Line {
    fn key(&mut self, field: &Field) {
        if self.json {
            self.out.extend([",\"", field.name(), "\":"]);
        } else if field.name() == "message" {
            self.out.push(' ');
        } else {
            self.out.extend([" ", field.name(), "="]);
        }
    }

    fn number(&mut self, field: &Field, value: impl Debug) {
        self.key(field);
        let _ = write!(self.out, "{value:?}");
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.key(field);
        if self.json || json::is_plain(value) {
            self.out.push('"');
            json::inner(&mut self.out, value);
            self.out.push('"');
        } else {
            let _ = write!(self.out, "{value:?}");
        }
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.key(field);
        json::number(&mut self.out, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.number(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.number(field, value);
    }

    /// Only the message, which is no text of anybody's.
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.key(field);
        let quote = if self.json { "\"" } else { "" };
        let _ = write!(self.out, "{quote}{value:?}{quote}");
    }
}

/// `2026-11-26T20:49:42` of seconds since 1970. Days to a date by Howard Hinnant's `civil_from_days`, years begin in March.
fn date(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let (day, month) = (day_of_year - (153 * shifted + 2) / 5 + 1, if shifted < 10 { shifted + 3 } else { shifted - 9 });
    let year = 400 * era + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use tracing_subscriber::fmt;
    use tracing_subscriber::fmt::MakeWriter;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::sample::{attempt, record};

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Kept {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    /// What a record's line looks like, by ours and by fmt's own formatter, without the time.
    fn both(json: bool) -> [String; 2] {
        let mut one = record(vec![attempt("big", 0, "first", "pass")]);
        one.asked_model = "odd \"name\"".into();
        let said = |layer: Box<dyn tracing_subscriber::Layer<tracing_subscriber::Registry> + Send + Sync>, kept: Kept| {
            tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || one.log());
            let text = String::from_utf8(kept.0.lock().clone()).unwrap();
            let (from, to) = if json { (14, 41) } else { (0, 27) };
            let time = &text[from..to];
            assert!(time.starts_with("20") && time.ends_with('Z') && time.as_bytes()[19] == b'.', "{time}");
            text.replace(time, "")
        };
        let (ours, theirs) = (Kept::default(), Kept::default());
        let layers: [Box<dyn tracing_subscriber::Layer<_> + Send + Sync>; 2] = if json {
            let format = fmt::format().json().flatten_event(true);
            let layer = fmt::layer().event_format(RequestLines::new(format.clone(), true)).fmt_fields(fmt::format::JsonFields::new());
            [Box::new(layer.with_writer(ours.clone())), Box::new(fmt::layer().json().event_format(format).with_writer(theirs.clone()))]
        } else {
            let layer = fmt::layer().with_ansi(false).event_format(RequestLines::new(fmt::format(), false));
            [Box::new(layer.with_writer(ours.clone())), Box::new(fmt::layer().with_ansi(false).with_writer(theirs.clone()))]
        };
        let [one, other] = layers;
        [said(one, ours), said(other, theirs)]
    }

    #[test]
    fn the_line_is_what_fmt_writes() {
        let [ours, theirs] = both(false);
        assert_eq!(ours, theirs);
        let [ours, theirs] = both(true).map(|line| serde_json::from_str::<serde_json::Value>(&line).unwrap());
        assert_eq!(ours, theirs);
    }

    #[test]
    fn dates() {
        for (seconds, expected) in
            [(0, "1970-01-01T00:00:00"), (951_782_399, "2000-02-28T23:59:59"), (4_107_542_400, "2100-03-01T00:00:00")]
        {
            assert_eq!(date(seconds), expected);
        }
    }
}
