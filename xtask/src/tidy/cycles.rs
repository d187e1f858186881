//! Checks the imports between the files of each crate: no file imports an item of its parent, and
//! no files import each other in a cycle.
//!
//! A parent declares and uses its children. A child that imports from it makes a cycle of the two;
//! what children share belongs in a file of its own.

use std::collections::{BTreeMap, BTreeSet};

use super::finding::{Finding, Source};
use super::scan::{code_without_tests, line_of, positions};

/// Folders of the crates' root files.
const CRATES: &[&str] = &["proxy/src/", "bench/src/", "xtask/src/", "ebpf/src/", "tests/"];

/// Path of a module in its crate.
type Module = Vec<String>;

/// An import by one file of a crate.
#[derive(Debug)]
struct Import {
    line: usize,
    /// Module whose file has the item.
    module: Module,
    /// First segment behind the module; empty if the module itself is imported.
    item: String,
}

/// Finds imports from parents, then cycles of the other imports.
pub(super) fn check(sources: &[Source]) -> Vec<Finding> {
    CRATES.iter().flat_map(|root| check_crate(root, sources)).collect()
}

fn check_crate(root: &str, sources: &[Source]) -> Vec<Finding> {
    let files = files(root, sources);
    let mut findings: Vec<Finding> = Vec::new();
    let mut graph: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (module, source) in &files {
        for import in imports(module, &source.text, &files) {
            let Some(target) = files.get(&import.module) else { continue };
            if module.starts_with(&import.module) {
                if !import.item.is_empty() {
                    let rule = format!("'{}' is imported from the parent {}", import.item, target.path);
                    let finding = Finding::new(&source.path, import.line, rule, "move it to a file of its own");
                    if !findings.contains(&finding) {
                        findings.push(finding);
                    }
                }
            } else {
                graph.entry(&source.path).or_default().insert(&target.path);
            }
        }
    }
    findings.extend(cycle(&graph).map(|cycle| {
        let rule = format!("these files import each other: {}", cycle.join(" -> "));
        Finding::new(cycle[0], 1, rule, "move what they share to a file of its own")
    }));
    findings
}

/// Files of a crate by their modules, without files of tests.
fn files<'a>(root: &str, sources: &'a [Source]) -> BTreeMap<Module, &'a Source> {
    let inside = |source: &'a Source| Some((source.path.strip_prefix(root)?.strip_suffix(".rs")?, source));
    let inside: Vec<_> = sources.iter().filter_map(inside).collect();
    let has_library = inside.iter().any(|(path, _)| *path == "lib");
    let is_test = |path: &str| path == "tests" || path.ends_with("/tests") || path.contains("/tests/");
    let files = inside.into_iter().filter(|(path, _)| !(is_test(path) || has_library && *path == "main"));
    files.map(|(path, source)| (module_of(path), source)).collect()
}

fn module_of(path: &str) -> Module {
    let path = path.strip_suffix("/mod").unwrap_or(path);
    if ["lib", "main"].contains(&path) { Vec::new() } else { path.split('/').map(str::to_owned).collect() }
}

/// Imports of a file that lead to another file of the crate.
fn imports(module: &Module, text: &str, files: &BTreeMap<Module, &Source>) -> Vec<Import> {
    let code = code_without_tests(text);
    let uses = positions(&code, "use").into_iter().flat_map(|at| {
        let tree = code[at + 3..].split(';').next().unwrap_or_default();
        paths(tree).into_iter().map(move |path| (at, path))
    });
    let roots = ["crate", "super", "self"].into_iter().flat_map(|root| positions(&code, root));
    let children = files.keys().filter(|other| other.len() == module.len() + 1 && other.starts_with(module));
    let children = children
        .filter_map(|child| child.last())
        .flat_map(|name| positions(&code, name).into_iter().filter(|at| code[at + name.len()..].starts_with("::")));
    // The first of `super::super::x` has the whole path.
    let starts = roots.chain(children).filter(|at| !code[..*at].ends_with("::"));
    let others = starts.map(|at| {
        let end = code[at..].find(|c: char| c != ':' && c != '_' && !c.is_alphanumeric()).unwrap_or(code.len() - at);
        (at, code[at..at + end].to_owned())
    });
    let all: Vec<_> = uses.chain(others).collect();
    let resolved = all.into_iter().filter_map(|(at, path)| {
        let (target, item) = resolve(module, &path, files)?;
        (target != *module).then(|| Import { line: line_of(&code, at), module: target, item })
    });
    resolved.collect()
}

/// Paths of a tree such as `a::{b, c::{d, e as f}}`.
fn paths(tree: &str) -> Vec<String> {
    let tree = tree.trim();
    let Some((prefix, group)) = tree.split_once('{') else {
        return vec![tree.split_whitespace().next().unwrap_or_default().to_owned()];
    };
    let (mut depth, mut start, mut branches) = (0_usize, 0, Vec::new());
    let group = group.trim_end().strip_suffix('}').unwrap_or(group);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                branches.push(&group[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    branches.push(&group[start..]);
    let branches = branches.into_iter().filter(|branch| !branch.trim().is_empty()).flat_map(paths);
    branches.map(|branch| format!("{}{branch}", prefix.trim())).collect()
}

/// The module that a path leads to, and the segment behind it; `None` for a path out of the crate.
fn resolve(module: &Module, path: &str, files: &BTreeMap<Module, &Source>) -> Option<(Module, String)> {
    let mut segments = path.split("::").map(str::trim).peekable();
    let mut target = match segments.peek()? {
        &"crate" => {
            segments.next();
            Vec::new()
        }
        &("super" | "self") => module.clone(),
        first => {
            let child = [&module[..], &[(*first).to_owned()]].concat();
            files.contains_key(&child).then(|| module.clone())?
        }
    };
    segments.next_if_eq(&"self");
    while segments.next_if_eq(&"super").is_some() {
        target.pop()?;
    }
    while let Some(segment) = segments.peek() {
        let child = [&target[..], &[(*segment).to_owned()]].concat();
        if !files.contains_key(&child) {
            break;
        }
        target = child;
        segments.next();
    }
    let item = segments.next().unwrap_or_default();
    Some((target, if item == "self" { String::new() } else { item.to_owned() }))
}

/// A cycle of imports, from a file to the same file.
fn cycle<'a>(graph: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> Option<Vec<&'a str>> {
    let mut done = BTreeSet::new();
    graph.keys().find_map(|start| visit(start, graph, &mut Vec::new(), &mut done))
}

fn visit<'a>(
    file: &'a str,
    graph: &BTreeMap<&'a str, BTreeSet<&'a str>>,
    path: &mut Vec<&'a str>,
    done: &mut BTreeSet<&'a str>,
) -> Option<Vec<&'a str>> {
    if let Some(start) = path.iter().position(|other| *other == file) {
        return Some([&path[start..], &[file]].concat());
    }
    if !done.insert(file) {
        return None;
    }
    path.push(file);
    let found = graph.get(file).into_iter().flatten().find_map(|next| visit(next, graph, path, done));
    path.pop();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(files: &[(&str, &str)]) -> Vec<String> {
        let source = |(path, text): &(&str, &str)| Source { path: (*path).to_owned(), text: (*text).to_owned() };
        check(&files.iter().map(source).collect::<Vec<_>>()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn leaves_are_imported_from_anywhere() {
        let good = findings(&[
            ("proxy/src/lib.rs", "mod a;\nmod b;"),
            ("proxy/src/a/mod.rs", "mod leaf;\nmod part;\npub use part::Part;\nuse crate::b::B;"),
            ("proxy/src/a/leaf.rs", "pub struct Leaf;"),
            ("proxy/src/a/part.rs", "use super::leaf::{self, Leaf};\nfn f(_: crate::b::B) {}"),
            ("proxy/src/b.rs", "// use super::a::Part;\n#[cfg(test)]\nmod tests {\n    use crate::a::Part;\n}"),
            ("proxy/src/a/tests.rs", "use super::*;"),
        ]);
        assert_eq!(good, Vec::<String>::new());
    }

    #[test]
    fn an_import_from_a_parent_is_named() {
        for import in ["use super::Item;", "use crate::a::{part, Item as I};", "fn f(_: super::Item) {}"] {
            let found = findings(&[
                ("xtask/src/main.rs", "mod a;"),
                ("xtask/src/a/mod.rs", "mod part;\npub struct Item;"),
                ("xtask/src/a/part.rs", &format!("\n{import}")),
            ]);
            let expected = "xtask/src/a/part.rs:2: 'Item' is imported from the parent xtask/src/a/mod.rs";
            assert!(found.len() == 1 && found[0].starts_with(expected), "{import}: {found:?}");
        }
    }

    #[test]
    fn a_path_without_an_import_is_one_too() {
        let files = |body: &str| {
            let parent = format!("mod part;\nfn f() {{ {body} }}");
            findings(&[
                ("bench/src/lib.rs", "mod a;\nmod b;"),
                ("bench/src/a/mod.rs", &parent),
                ("bench/src/a/part.rs", "use crate::b::B;"),
                ("bench/src/b.rs", "use crate::a::f;"),
            ])
        };
        for other in ["part.f()", "x::part::f()", "counterpart::f()"] {
            assert_eq!(files(other), Vec::<String>::new(), "{other}");
        }
        let found = files("part::g()");
        let expected = "bench/src/a/mod.rs -> bench/src/a/part.rs -> bench/src/b.rs -> bench/src/a/mod.rs";
        assert!(found.len() == 1 && found[0].contains(expected), "{found:?}");
    }

    #[test]
    fn a_cycle_is_named_with_all_its_files() {
        let found = findings(&[
            ("ebpf/src/lib.rs", "mod a;\nmod b;\nmod c;"),
            ("ebpf/src/a.rs", "use crate::b::B;"),
            ("ebpf/src/b.rs", "use super::c::C;"),
            ("ebpf/src/c.rs", "fn f() -> crate::a::A { todo() }"),
        ]);
        let expected = "ebpf/src/a.rs:1: these files import each other: ebpf/src/a.rs -> ebpf/src/b.rs -> ebpf/src/c.rs -> ebpf/src/a.rs";
        assert!(found.len() == 1 && found[0].starts_with(expected), "{found:?}");
    }
}
