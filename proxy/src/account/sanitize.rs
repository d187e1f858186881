//! Words of a peer, made fit for a log, a terminal and a page.

use std::borrow::Cow;

/// Longer than any DNS name with its port (RFC 1035, 2.3.4: 255 octets).
const MOST: usize = 300;

/// Returns `text` with every character able to steer a terminal or fake a line replaced by U+FFFD,
/// cut after 300 characters.
///
/// JSON escapes only what is below U+0020, which leaves DEL, the C1 controls (U+009B starts a
/// terminal sequence like ESC [) and the characters that turn the direction of writing around.
#[must_use]
pub fn sanitize(text: &str) -> Cow<'_, str> {
    if text.chars().take(MOST + 1).count() <= MOST && !text.chars().any(is_control_like) {
        return Cow::Borrowed(text);
    }
    let shown = text.chars().take(MOST).map(|c| if is_control_like(c) { '\u{fffd}' } else { c });
    Cow::Owned(shown.chain(text.chars().nth(MOST).map(|_| '\u{2026}')).collect())
}

/// Controls (Cc), line and paragraph separators, and the bidirectional and invisible formats of
/// Unicode's UAX 9 and UTS 55.
fn is_control_like(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::sanitize;

    #[test]
    fn ordinary_text_is_left_alone() {
        for text in ["", "db.example:443", "zoë", "\u{6c34}\u{9580}", &"x".repeat(300)] {
            assert_eq!(sanitize(text), text);
        }
    }

    #[test]
    fn what_steers_is_replaced() {
        assert_eq!(
            sanitize("a\r\nb\u{1b}[2J\u{9b}\u{7f}\u{202e}"),
            "a\u{fffd}\u{fffd}b\u{fffd}[2J\u{fffd}\u{fffd}\u{fffd}"
        );
    }

    #[test]
    fn a_long_one_is_cut_by_characters() {
        assert_eq!(sanitize(&"\u{fc}".repeat(301)).chars().count(), 301);
        assert!(sanitize(&"\u{fc}".repeat(5_000)).ends_with("\u{fc}\u{2026}"));
    }
}
