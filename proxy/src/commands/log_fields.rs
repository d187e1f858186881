//! Fields of a log line in the text format: `message name=value name=value`.
//!
//! Written as by `tracing_subscriber::fmt::format::DefaultFields`, except for numbers with a
//! fraction: those are decimal and never in scientific notation, a trap for `awk` and people
//! (`Debug` of `f64` has 1e-5).

use std::error::Error;
use std::fmt;

use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;

/// Writes the fields of events for people.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TextFields;

impl<'writer> FormatFields<'writer> for TextFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut text = Text { writer, first: true, result: Ok(()) };
        fields.record(&mut text);
        text.result
    }
}

struct Text<'writer> {
    writer: Writer<'writer>,
    first: bool,
    result: fmt::Result,
}

impl Text<'_> {
    fn field(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        if self.result.is_err() {
            return;
        }
        let blank = if std::mem::replace(&mut self.first, false) { "" } else { " " };
        self.result = match (field.name(), self.writer.has_ansi_escapes()) {
            ("message", _) => write!(self.writer, "{blank}{value}"),
            // Italic and dim, of SGR (ECMA-48, 8.3.117).
            (name, true) => write!(self.writer, "{blank}\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m{value}"),
            (name, false) => write!(self.writer, "{blank}{name}={value}"),
        };
    }
}

impl Visit for Text<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        let digits = format!("{value:.6}");
        let short = digits.trim_end_matches('0');
        let zero = if short.ends_with('.') { "0" } else { "" };
        self.field(field, format_args!("{short}{zero}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        // Quoted and escaped, so no value can pretend to be the next field.
        self.field(field, format_args!("{value:?}"));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.field(field, format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.field(field, format_args!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn times_are_decimal_and_words_are_quoted() {
        let sink = Sink::default();
        let writer = sink.clone();
        let log = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_target(false).with_ansi(false);
        let log = log.without_time().fmt_fields(TextFields).finish();
        tracing::subscriber::with_default(log, || {
            let user = Some("a b\"=c");
            tracing::info!(id = 7, user, duration_s = 0.000_012, quiet_s = 3.0, age_s = 1.25, "a line");
        });
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        let expected = " INFO a line id=7 user=\"a b\\\"=c\" duration_s=0.000012 quiet_s=3.0 age_s=1.25\n";
        assert_eq!(text, expected);
    }
}
