//! Blanks out everything but code in Rust source, line for line, so that a check can search words
//! and report line numbers.

/// Replaces comments, the insides of literals and `#[cfg(test)]` items with spaces.
pub(super) fn code_without_tests(source: &str) -> String {
    blank_tests(&code(source))
}

/// Replaces comments and the insides of string and character literals with spaces; quotes and line
/// ends stay.
pub(super) fn code(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let mut out = String::with_capacity(source.len());
    let mut at = 0;
    while at < chars.len() {
        let end = match &chars[at..] {
            ['/', '/', ..] => find(&chars, at, &['\n']),
            ['/', '*', ..] => comment_end(&chars, at),
            ['"', ..] => string_end(&chars, at + 1),
            ['r' | 'b' | 'c', ..] if starts_word(&chars, at) => raw_string_end(&chars, at).unwrap_or(at),
            ['\'', ..] => char_end(&chars, at).unwrap_or(at),
            _ => at,
        };
        if end == at {
            out.push(chars[at]);
            at += 1;
        } else {
            out.extend(chars[at..end].iter().map(|c| if matches!(c, '\n' | '"') { *c } else { ' ' }));
            at = end;
        }
    }
    out
}

fn starts_word(chars: &[char], at: usize) -> bool {
    at == 0 || !is_word(chars[at - 1])
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

/// Next position of `what`, or the end.
fn find(chars: &[char], from: usize, what: &[char]) -> usize {
    (from..chars.len()).find(|at| chars[*at..].starts_with(what)).unwrap_or(chars.len())
}

/// End of a block comment; they nest (Rust reference, "Comments").
fn comment_end(chars: &[char], from: usize) -> usize {
    let (mut depth, mut at) = (0, from);
    while at < chars.len() {
        match &chars[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    at
}

fn string_end(chars: &[char], mut at: usize) -> usize {
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(chars.len())
}

/// End of `r"..."`, `r##"..."##`, optionally prefixed by `b` or `c`; a plain `b"..."` is left to
/// the next iteration.
fn raw_string_end(chars: &[char], at: usize) -> Option<usize> {
    let raw = if chars[at] == 'r' { at } else { at + 1 };
    (chars.get(raw) == Some(&'r')).then_some(())?;
    let hashes = chars[raw + 1..].iter().take_while(|c| **c == '#').count();
    let open = raw + 1 + hashes;
    (chars.get(open) == Some(&'"')).then_some(())?;
    let mut close = vec!['"'];
    close.extend(std::iter::repeat_n('#', hashes));
    Some((find(chars, open + 1, &close) + close.len()).min(chars.len()))
}

/// End of `'x'` or an escape; `None` for a lifetime.
fn char_end(chars: &[char], at: usize) -> Option<usize> {
    match chars.get(at + 1)? {
        '\\' => Some((find(chars, at + 3, &['\'']) + 1).min(chars.len())),
        _ => (chars.get(at + 2) == Some(&'\'')).then_some(at + 3),
    }
}

/// Blanks each item below a `#[cfg(test)]`, up to its closing brace or semicolon.
fn blank_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut out = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(start) = rest.find(MARK) {
        let end = start + MARK.len() + item_length(&rest[start + MARK.len()..]);
        out.push_str(&rest[..start]);
        out.extend(rest[start..end].chars().map(|c| if c == '\n' { c } else { ' ' }));
        rest = &rest[end..];
    }
    out.push_str(rest);
    out
}

fn item_length(code: &str) -> usize {
    let mut depth = 0_usize;
    for (at, c) in code.char_indices() {
        match c {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => {
                depth = depth.saturating_sub(1);
                if c == '}' && depth == 0 {
                    return at + 1;
                }
            }
            ';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    code.len()
}

/// Line numbers of `word` as a whole word, from 1.
pub(super) fn lines_with_word(code: &str, word: &str) -> Vec<usize> {
    positions(code, word).into_iter().map(|at| line_of(code, at)).collect()
}

/// Byte offsets of `word` as a whole word.
pub(super) fn positions(code: &str, word: &str) -> Vec<usize> {
    let inside = |c: Option<char>| c.is_some_and(is_word);
    code.match_indices(word)
        .filter(|(at, _)| !inside(code[..*at].chars().next_back()) && !inside(code[at + word.len()..].chars().next()))
        .map(|(at, _)| at)
        .collect()
}

/// Line number of the byte at `at`.
pub(super) fn line_of(code: &str, at: usize) -> usize {
    1 + code[..at].bytes().filter(|b| *b == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked_and_lines_kept() {
        let source = "a // b\n/* c /* d */ e */ f\n\"g \\\" h\" i 'j' '\\'' k<'l>\nr#\"m \" n\"# b\"o\" p br\"q\"";
        let code = code(source);
        assert_eq!(code.lines().count(), source.lines().count());
        for word in ["b", "c", "d", "e", "g", "h", "j", "m", "n", "o", "q"] {
            let seen = positions(&code, word);
            // The prefix of a byte string is code.
            assert!(seen.is_empty() || word == "b", "{word}: {code}");
        }
        for word in ["a", "f", "i", "k", "l", "p"] {
            assert_eq!(positions(&code, word).len(), 1, "{word}: {code}");
        }
    }

    #[test]
    fn test_items_are_blanked_and_what_follows_is_not() {
        let source =
            "fn a() {}\n#[cfg(test)]\nmod tests {\n  fn b() { c(\"}\") }\n}\n#[cfg(test)]\nuse d::{e, f};\nfn g() {}";
        let code = code_without_tests(source);
        assert_eq!(lines_with_word(&code, "g"), [8]);
        for word in ["b", "c", "d", "e", "f", "tests"] {
            assert!(positions(&code, word).is_empty(), "{word}: {code}");
        }
    }

    #[test]
    fn only_whole_words_count() {
        assert_eq!(lines_with_word("http\nhttparse http_body\nuse http::x", "http"), [1, 3]);
    }
}
