//! The one log line of a request, written straight: fmt's own formatter, field by field through `Debug`, took several
//! microseconds for it. Its time is when the request ended, not when the line is written. Other events are fmt's business.

use std::fmt::{self, Debug, Write};
use std::time::Duration;

use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::json;
use crate::record::{ENDED_US, REQUEST_LINE};

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
        if event.metadata().target() != REQUEST_LINE {
            return self.rest.format_event(context, writer, event);
        }
        let form = match (self.json, writer.has_ansi_escapes()) {
            (true, _) => Form::Json,
            (false, true) => Form::Painted,
            (false, false) => Form::Plain,
        };
        let mut line = Line { head: String::with_capacity(128), out: String::with_capacity(512), form, lines: self };
        event.record(&mut line);
        line.out.push_str(if self.json { "}\n" } else { "\n" });
        // One piece: each is a turn at the log's lock.
        line.head.push_str(&line.out);
        writer.write_str(&line.head)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Json,
    Plain,
    /// For a terminal.
    Painted,
}

/// Takes the fields of one event; one of them makes its head.
struct Line<'a, F> {
    head: String,
    out: String,
    form: Form,
    lines: &'a RequestLines<F>,
}

impl<F> Line<'_, F> {
    /// What stands before the fields. A request's line is always of the level `INFO`.
    fn head(&mut self, ended: Duration) {
        let [before, between, after] = match self.form {
            Form::Json => ["{\"timestamp\":\"", "\",\"level\":\"INFO\",\"target\":\"", "\""],
            Form::Plain => ["", "  INFO ", ":"],
            Form::Painted => ["\x1b[2m", "\x1b[0m \x1b[32m INFO\x1b[0m \x1b[2m", "\x1b[0m\x1b[2m:\x1b[0m"],
        };
        self.head.push_str(before);
        self.lines.time(ended, &mut self.head);
        self.head.extend([between, REQUEST_LINE, after]);
    }

    fn key(&mut self, field: &Field) {
        let name = field.name();
        match self.form {
            Form::Json => self.out.extend([",\"", name, "\":"]),
            _ if name == "message" => self.out.push(' '),
            Form::Plain => self.out.extend([" ", name, "="]),
            Form::Painted => self.out.extend([" \x1b[3m", name, "\x1b[0m\x1b[2m=\x1b[0m"]),
        }
    }

    fn number(&mut self, field: &Field, value: impl Debug) {
        self.key(field);
        let _ = write!(self.out, "{value:?}");
    }
}

impl<F> Visit for Line<'_, F> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.key(field);
        if self.form == Form::Json || json::is_plain(value) {
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
        if field.name() == ENDED_US {
            self.head(Duration::from_micros(value));
        } else {
            self.number(field, value);
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.number(field, value);
    }

    /// Only the message, which is no text of anybody's.
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.key(field);
        let quote = if self.form == Form::Json { "\"" } else { "" };
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
    use std::time::UNIX_EPOCH;

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

    /// What a record's line looks like, by ours and by fmt's own formatter, which is told the time as a field.
    fn both(form: Form) -> [String; 2] {
        let mut one = record(vec![attempt("big", 0, "first", "pass")]);
        one.asked_model = "odd \"name\"".into();
        one.arrived = UNIX_EPOCH;
        let said = |layer: Box<dyn tracing_subscriber::Layer<tracing_subscriber::Registry> + Send + Sync>, kept: Kept| {
            tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || one.log());
            String::from_utf8(kept.0.lock().clone()).unwrap()
        };
        let (ours, theirs) = (Kept::default(), Kept::default());
        let layers: [Box<dyn tracing_subscriber::Layer<_> + Send + Sync>; 2] = if form == Form::Json {
            let format = fmt::format().json().flatten_event(true);
            let layer = fmt::layer().event_format(RequestLines::new(format.clone(), true)).fmt_fields(fmt::format::JsonFields::new());
            [Box::new(layer.with_writer(ours.clone())), Box::new(fmt::layer().json().event_format(format).with_writer(theirs.clone()))]
        } else {
            let painted = form == Form::Painted;
            let layer = fmt::layer().with_ansi(painted).event_format(RequestLines::new(fmt::format(), false));
            [Box::new(layer.with_writer(ours.clone())), Box::new(fmt::layer().with_ansi(painted).with_writer(theirs.clone()))]
        };
        let [one, other] = layers;
        [said(one, ours), said(other, theirs)]
    }

    /// The record's end.
    const TIME: &str = "1970-01-01T00:00:00.120000Z";

    #[test]
    fn the_line_is_what_fmt_writes() {
        for (form, told) in [(Form::Plain, " ended_us=120000"), (Form::Painted, " \x1b[3mended_us\x1b[0m\x1b[2m=\x1b[0m120000")] {
            let [ours, theirs] = both(form);
            let now = theirs.find("20").unwrap();
            assert_eq!(ours, theirs.replace(&theirs[now..now + TIME.len()], TIME).replace(told, ""));
        }
        let [ours, mut theirs] = both(Form::Json).map(|line| serde_json::from_str::<serde_json::Value>(&line).unwrap());
        theirs.as_object_mut().unwrap().remove(ENDED_US);
        theirs["timestamp"] = TIME.into();
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
