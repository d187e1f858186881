//! Link check of the documents: a relative link leads to an existing file, its anchor to a heading.

use std::collections::BTreeMap;
use std::path::Path;

use super::finding::{Finding, Source};

/// Finds every broken link. `exists` tests if a path from the root is a file or folder.
pub(super) fn check(sources: &[Source], exists: impl Fn(&str) -> bool) -> Vec<Finding> {
    let documents: Vec<_> = sources.iter().filter(|source| is_document(&source.path)).collect();
    let headings: BTreeMap<&str, Vec<String>> =
        documents.iter().map(|source| (source.path.as_str(), anchors(&source.text))).collect();
    let mut findings = Vec::new();
    for source in &documents {
        for (line, link) in links(&source.text) {
            if let Some((rule, remedy)) = fault(&source.path, link, &headings, &exists) {
                findings.push(Finding::new(&source.path, line, format!("the link '{link}' {rule}"), remedy));
            }
        }
    }
    findings
}

/// Tests if links of a file are checked: Markdown at the top or in docs.
pub(super) fn is_document(path: &str) -> bool {
    let name = path.strip_prefix("docs/").unwrap_or(path);
    name.ends_with(".md") && !name.contains('/')
}

type Fault = (&'static str, &'static str);

fn fault(
    from: &str,
    link: &str,
    headings: &BTreeMap<&str, Vec<String>>,
    exists: impl Fn(&str) -> bool,
) -> Option<Fault> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
    let Some(path) = resolve(from, file) else { return Some(("leads out of the repository", "use a full URL")) };
    if !exists(&path) {
        return Some(("leads to no file", "correct the path"));
    }
    let known = headings.get(path.as_str()).is_none_or(|known| known.iter().any(|heading| heading == anchor));
    (!anchor.is_empty() && !known).then_some(("leads to no heading", "correct the anchor"))
}

/// Path from the root for a link in the document `from`; the document itself for an empty link.
fn resolve(from: &str, file: &str) -> Option<String> {
    if file.is_empty() {
        return Some(from.to_owned());
    }
    let folder = Path::new(from).parent().and_then(Path::to_str).unwrap_or_default();
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in file.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

/// Lines outside of fenced blocks, with their numbers.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut in_block = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let fence = line.trim_start().starts_with("```");
        in_block ^= fence;
        (!fence && !in_block).then_some((index + 1, line))
    })
}

/// Destination of each `[text](destination)` and `![text](destination)`.
fn links(text: &str) -> Vec<(usize, &str)> {
    let destinations = |line| -> Vec<&str> {
        let parts = str::split(line, "](").skip(1);
        parts.filter_map(|part| part.split_once(')').map(|(link, _)| link)).collect()
    };
    prose(text).flat_map(|(number, line)| destinations(line).into_iter().map(move |link| (number, link))).collect()
}

/// Anchors of the headings, as made by GitHub: lower case, punctuation dropped, blanks to hyphens,
/// a number behind repeated ones.
fn anchors(text: &str) -> Vec<String> {
    let mut anchors: Vec<String> = Vec::new();
    for (_, line) in prose(text) {
        let words = line.trim_start_matches('#');
        if words.len() == line.len() || !words.starts_with(' ') {
            continue;
        }
        let kept = words.trim().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        let anchor: String = kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect();
        let same = anchors.iter().filter(|known| **known == anchor).count();
        anchors.push(if same == 0 { anchor } else { format!("{anchor}-{same}") });
    }
    anchors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(documents: &[(&str, &str)]) -> Vec<String> {
        let sources: Vec<_> = documents
            .iter()
            .map(|(path, text)| Source { path: (*path).to_owned(), text: (*text).to_owned() })
            .collect();
        let exists = |path: &str| path == "LICENSE" || documents.iter().any(|(known, _)| *known == path);
        check(&sources, exists).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn links_that_lead_somewhere_pass() {
        let readme = "# A `b`: c\n[x](docs/x.md) [y](docs/x.md#two-words) ![z](LICENSE) [w](https://example.org/#q)\n\
                      [v](#a-b-c)\n```\n[u](gone)\n```\n";
        let page = "# Two words\n[up](../README.md#a-b-c) [self](x.md) [2](#two-words-1)\n## Two words\n";
        assert_eq!(found(&[("README.md", readme), ("docs/x.md", page)]), Vec::<String>::new());
    }

    #[test]
    fn links_that_lead_nowhere_are_named() {
        let readme = "one [a](docs/y.md)\n[b](docs/x.md#three) and [c](#none)\n[d](../secret)\n";
        let found = found(&[("README.md", readme), ("docs/x.md", "# One\n```\n# three\n```\n")]);
        assert_eq!(found.len(), 4, "{found:?}");
        assert!(found[0].starts_with("README.md:1: the link 'docs/y.md' leads to no file"), "{found:?}");
        assert!(found[1].starts_with("README.md:2: the link 'docs/x.md#three' leads to no heading"), "{found:?}");
        assert!(found[2].contains("'#none'") && found[3].contains("leads out of the repository"), "{found:?}");
    }

    #[test]
    fn documents_are_markdown_at_the_top_and_in_docs() {
        assert!(is_document("CHANGELOG.md") && is_document("docs/tls.md"));
        assert!(!is_document("proxy/notes.md") && !is_document("docs/more/x.md") && !is_document("docs/x.svg"));
    }
}
