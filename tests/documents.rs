//! Commands in README.md and docs/: the program accepts each of them.

use std::fs;
use std::path::{Path, PathBuf};

use sluicegate::commands::line;

/// README.md and the pages of docs.
fn documents() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the root");
    let pages = fs::read_dir(root.join("docs")).expect("a folder").map(|entry| entry.expect("an entry").path());
    let paths = pages.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    let paths = paths.chain([root.join("README.md")]);
    paths.map(|path| (path.clone(), fs::read_to_string(&path).expect("a page"))).collect()
}

/// Shell lines of a page: blocks of `sh`, and code spans starting with the program's name.
fn shell(page: &str) -> String {
    let parts: Vec<_> = page.split("```").collect();
    let blocks = parts.iter().skip(1).step_by(2).filter_map(|block| block.strip_prefix("sh\n")).map(str::to_owned);
    let spans = parts.iter().step_by(2).flat_map(|prose| prose.split('`').skip(1).step_by(2));
    let whole = |span: &&str| span.contains("sluicegate serve ") || span.contains("sluicegate rates ");
    blocks.chain(spans.filter(whole).map(|span| format!("{span}\n"))).collect()
}

/// Splits a script into commands and words: quotes and continuation lines as in sh; a redirection
/// ends a command's words.
fn commands(script: &str) -> Vec<Vec<String>> {
    let mut commands = vec![Vec::new()];
    let (mut word, mut quote, mut ignored) = (None::<String>, None, false);
    let script = script.replace("\\\n", " ");
    let mut chars = script.chars().chain(['\n']).peekable();
    while let Some(c) = chars.next() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            (c, Some(_)) => word.get_or_insert_default().push(c),
            ('\'' | '"', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            ('\n' | '|' | '&' | ';' | ' ' | '>' | '<' | '#', None) if c != '#' || word.is_none() => {
                let ended = word.take().filter(|_| !ignored);
                commands.last_mut().expect("one").extend(ended);
                match c {
                    '\n' | '|' | '&' | ';' => {
                        commands.push(Vec::new());
                        ignored = false;
                    }
                    '#' => while chars.next_if(|c| *c != '\n').is_some() {},
                    '>' | '<' => ignored = true,
                    _ => {}
                }
            }
            (c, None) => word.get_or_insert_default().push(c),
        }
    }
    commands.retain(|words| words.first().is_some_and(|word| word.ends_with("sluicegate")));
    commands
}

#[test]
fn words_are_split_as_by_a_shell() {
    let script =
        "# sluicegate a\nprintf x | sluicegate b 'c d' >> e && /f/sluicegate g \\\n  h# \"i 'j\" # k\nsluicegate l &";
    let expected: [&[&str]; 3] =
        [&["sluicegate", "b", "c d"], &["/f/sluicegate", "g", "h#", "i 'j"], &["sluicegate", "l"]];
    assert_eq!(commands(script), expected);
}

#[test]
fn every_printed_command_is_understood() {
    let mut tried = 0;
    for (path, page) in documents() {
        for words in commands(&shell(&page)) {
            let parsed = line::command().try_get_matches_from(&words);
            let help = |error: &clap::Error| error.exit_code() == 0;
            assert!(parsed.as_ref().err().is_none_or(help), "{path:?}: {words:?}: {}", parsed.unwrap_err());
            tried += 1;
        }
    }
    assert!(tried > 50, "only {tried} commands were found");
}
