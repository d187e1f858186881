//! Heads of requests and answers as bytes: limits, line ends, and the first line.

/// The longest head in bytes, from the first byte to the end of the empty line.
pub const MAX_HEAD: usize = 16 * 1024;

/// The most header lines in a head.
pub const MAX_HEADERS: usize = 64;

/// Returns true if every line of a head ends in CR LF. A parser that accepts a lone LF sees the end
/// of a head where another parser sees none.
#[must_use]
pub fn one_line_ending(head: &[u8]) -> bool {
    !head.iter().enumerate().any(|(at, &byte)| byte == b'\n' && (at == 0 || head[at - 1] != b'\r'))
}

/// Returns the reason phrase of a parsed answer, byte for byte: `httparse` returns none for a
/// phrase with bytes beyond ASCII, although RFC 9112, 4 allows them.
#[must_use]
pub fn phrase(head: &[u8]) -> &[u8] {
    let line = head.split(|&byte| byte == b'\n').find(|line| !line.trim_ascii().is_empty()).unwrap_or_default();
    line.splitn(3, |&byte| byte == b' ').nth(2).unwrap_or_default().trim_ascii()
}

/// Returns the head with its minor version written as 1 if it is 2 to 9, and otherwise `None`: a
/// message of a higher minor version is read as one of the highest known (RFC 9110, 2.5), and
/// `httparse` knows only 0 and 1. `word`: the place of the version in the first line, counted
/// from 0.
#[must_use]
pub fn known_minor_version(head: &[u8], word: usize) -> Option<Vec<u8>> {
    let start = head.iter().position(|byte| !matches!(byte, b'\r' | b'\n'))?;
    let line = head[start..].split(|&byte| byte == b'\n').next()?;
    let before = line.split(|&byte| byte == b' ').take(word).map(|word| word.len() + 1).sum::<usize>();
    let version = line.get(before..)?.strip_prefix(b"HTTP/1.")?;
    if !matches!(version.first(), Some(b'2'..=b'9')) {
        return None;
    }
    let mut known = head.to_vec();
    known[start + before + b"HTTP/1.".len()] = b'1';
    Some(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_ends_in_one_way() {
        assert!(one_line_ending(b"a\r\nb\r\n\r\n"));
        assert!(!one_line_ending(b"a\r\nb\n\r\n"));
        assert!(!one_line_ending(b"\n"));
    }
}
