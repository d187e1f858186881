//! Checks the language of comments: length of lines, openings, and pronouns that stand in for the
//! name of a thing.

use super::finding::{Finding, Source};

/// Longest line of a comment, in characters.
const MAX_COLUMNS: usize = 100;

/// Openings of a doc comment that delay what it is about.
const OPENINGS: &[&str] = &[
    "What",
    "Who",
    "Whom",
    "Whose",
    "Whether",
    "How",
    "So many",
    "So much",
    "So long",
    "The same",
    "See there",
    "Nobody",
    "Whoever",
    "Whatever",
];

/// Pronouns for people, which programs are not.
const PERSONAL: &[&str] = &["he", "him", "his", "she", "her", "hers"];

/// Pronouns that make a reader look for the thing meant.
const INDIRECT: &[&str] =
    &["who", "whom", "whose", "what", "that", "which", "nobody", "whoever", "somebody", "everybody", "anybody"];

/// Most of the words in [`INDIRECT`] among 1000 words of the comments of a crate.
const MAX_INDIRECT: usize = 25;

/// Crates, by the folders of their files.
const CRATES: &[&str] = &["proxy/", "bench/", "xtask/", "ebpf/", "tests/"];

/// A line of a comment.
#[derive(Debug)]
struct Line<'a> {
    number: usize,
    columns: usize,
    /// Text behind the slashes.
    text: &'a str,
    /// The line begins a doc comment.
    opens: bool,
}

/// Comments that have a line of their own.
fn comments(text: &str) -> Vec<Line<'_>> {
    let mut in_doc = false;
    let lines = text.lines().enumerate().filter_map(|(index, line)| {
        let behind = line.trim_start().strip_prefix("//");
        let is_doc = behind.is_some_and(|text| text.starts_with(['/', '!']));
        let opens = is_doc && !in_doc;
        in_doc = is_doc;
        let text = behind?.trim_start_matches(['/', '!']).trim();
        Some(Line { number: index + 1, columns: line.chars().count(), text, opens })
    });
    lines.collect()
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '\'' && c != '_').filter(|word| !word.is_empty())
}

/// Finds lines that are too long, openings, and personal pronouns in a Rust file.
pub(super) fn check_lines(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for line in comments(&source.text) {
        let mut find = |rule: String, remedy: &str| {
            findings.push(Finding::new(&source.path, line.number, rule, remedy));
        };
        // A row of a table or a line of a diagram cannot be wrapped, nor a word.
        let is_figure = line.text.starts_with('|') || line.text.contains("  ");
        let wraps = !is_figure && line.text.contains(' ');
        if line.columns > MAX_COLUMNS && wraps {
            find(format!("a comment of {} columns is longer than {MAX_COLUMNS}", line.columns), "wrap it");
        }
        let opening = OPENINGS.iter().find(|opening| line.opens && begins_with(line.text, opening));
        if let Some(opening) = opening {
            find(format!("a doc comment opens with '{opening}'"), "begin it with a verb or a noun");
        }
        let personal = words(line.text).find(|word| PERSONAL.contains(&word.to_lowercase().as_str()));
        if let Some(word) = personal {
            find(format!("'{word}' in a comment"), "name the program, the peer or the user");
        }
    }
    findings
}

/// Tests if a text begins with these words.
fn begins_with(text: &str, words: &str) -> bool {
    text.strip_prefix(words).is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric()))
}

/// Finds crates whose comments have too many indirect pronouns, and names the files with the most.
pub(super) fn check_pronouns(sources: &[Source]) -> Vec<Finding> {
    let of_crate = |root: &&str| {
        let files = sources.iter().filter(|source| source.path.starts_with(root));
        let mut counts: Vec<_> = files.map(|source| (count(source), source.path.as_str())).collect();
        let (pronouns, words) =
            counts.iter().fold((0, 0), |(pronouns, words), (count, _)| (pronouns + count.0, words + count.1));
        if pronouns * 1000 <= words * MAX_INDIRECT {
            return None;
        }
        counts.sort_unstable_by(|one, other| other.cmp(one));
        let most: Vec<_> = counts.iter().take(5).map(|(_, path)| *path).collect();
        let rule = format!("{pronouns} of {words} words in comments of {root} are who, what, that or the like");
        Some(Finding::new(counts[0].1, 1, rule, format!("name the thing again, first in {}", most.join(", "))))
    };
    CRATES.iter().filter_map(of_crate).collect()
}

/// Indirect pronouns and all words in the comments of a file.
fn count(source: &Source) -> (usize, usize) {
    comments(&source.text).iter().flat_map(|line| words(line.text)).fold((0, 0), |(pronouns, all), word| {
        (pronouns + usize::from(INDIRECT.contains(&word.to_lowercase().as_str())), all + 1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source { path: path.to_owned(), text: text.to_owned() }
    }

    fn lines(text: &str) -> Vec<String> {
        check_lines(&source("a.rs", text)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn plain_comments_pass() {
        let long = "x".repeat(MAX_COLUMNS);
        let text = [
            "//! Sums.",
            "/// Returns the sum.",
            "///",
            "/// What follows is no opening.",
            &format!("fn f() {{}} // {long} y"),
            "// What an ordinary comment opens with is free.",
            "let s = \"he\";",
            &format!("// | a row | {long} |"),
            &format!("// a diagram -- {long}  -- of columns"),
            &format!("// {long}"),
        ];
        let text = text.join("\n");
        assert_eq!(lines(&text), Vec::<String>::new());
    }

    #[test]
    fn each_rule_names_its_line() {
        for (text, said) in [
            (format!("\n// {} y", "x".repeat(MAX_COLUMNS)), "a.rs:2: a comment of 105 columns"),
            ("\n\n/// What it is.".to_owned(), "a.rs:3: a doc comment opens with 'What'"),
            ("//! So many bytes.".to_owned(), "a.rs:1: a doc comment opens with 'So many'"),
            ("fn f() {}\n// Then he reads.".to_owned(), "a.rs:2: 'he' in a comment"),
            ("// His socket.".to_owned(), "a.rs:1: 'His' in a comment"),
        ] {
            let found = lines(&text);
            assert!(found.len() == 1 && found[0].starts_with(said), "{text}: {found:?}");
        }
        assert_eq!(lines("/// Whatsoever\n/// Hero of the history."), Vec::<String>::new());
    }

    #[test]
    fn every_doc_comment_of_a_file_is_checked() {
        for between in ["fn f() {}", "// An ordinary comment.", "#[test]\nfn f() {}"] {
            let found = lines(&format!("//! Sums.\n\n/// Adds.\n{between}\n/// Whether it is so."));
            let line = 4 + between.lines().count();
            let expected = format!("a.rs:{line}: a doc comment opens with 'Whether'");
            assert!(found.len() == 1 && found[0].starts_with(&expected), "{between}: {found:?}");
        }
    }

    #[test]
    fn indirect_pronouns_are_counted_by_crate() {
        let few = format!("// {} that\n", "word ".repeat(999 / MAX_INDIRECT));
        let of = |texts: [&str; 2]| {
            check_pronouns(&[source("bench/a.rs", texts[0]), source("bench/b.rs", texts[1])])
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        assert_eq!(of([&few, &few]), Vec::<String>::new());
        let found = of([&few, "// what which who"]);
        assert!(
            found.len() == 1 && found[0].starts_with("bench/b.rs:1: 4 of 43 words in comments of bench/"),
            "{found:?}"
        );
        assert!(found[0].ends_with("first in bench/b.rs, bench/a.rs"), "{found:?}");
    }
}
