//! Checks the code against the map in the crate docs of the product.

use std::collections::BTreeSet;

use super::finding::{Finding, Source};
use super::scan::{code_without_tests, line_of, lines_with_word, positions};

/// File of the map.
pub(super) const LIB: &str = "proxy/src/lib.rs";
/// Folder of the modules.
pub(super) const FOLDER: &str = "proxy/src/";

/// One row of the map.
#[derive(Debug, PartialEq)]
struct Row {
    line: usize,
    layer: u8,
    module: String,
    purpose: String,
    may_import: Vec<String>,
    forbidden: Vec<String>,
}

/// Finds every violation of the map. `sources`: Rust files of the workspace.
pub(super) fn check(sources: &[Source]) -> Vec<Finding> {
    let Some(lib) = sources.iter().find(|source| source.path == LIB) else {
        return vec![Finding::new(LIB, 1, "the crate docs hold the map", "write it")];
    };
    let rows = rows(&lib.text);
    if rows.is_empty() {
        return vec![Finding::new(LIB, 1, "the crate docs hold the map", "begin it by '| layer | module |'")];
    }
    let mut findings = agreement(&rows, &lib.text);
    findings.extend(rows.iter().flat_map(|row| layers(row, &rows)));
    for source in sources {
        let row = module_of(&source.path).and_then(|module| rows.iter().find(|row| row.module == module));
        if let Some(row) = row {
            let code = code_without_tests(&source.text);
            findings.extend(imports(row, &rows, &source.path, &code));
            findings.extend(words(row, &source.path, &code));
        }
    }
    findings
}

/// The map for docs/architecture.md: layers, modules and purposes.
pub(super) fn summary(lib: &str) -> String {
    let rows = rows(lib);
    let lines = rows.iter().map(|row| format!("| {} | `{}` | {} |\n", row.layer, row.module, row.purpose));
    format!("| layer | module | purpose |\n|---|---|---|\n{}", lines.collect::<String>())
}

/// Rows of the table that begins with `| layer | module |`.
fn rows(lib: &str) -> Vec<Row> {
    let table = lib.lines().enumerate().skip_while(|(_, line)| !line.contains("| layer | module |"));
    let table = table.skip(2).take_while(|(_, line)| line.starts_with("//! |"));
    table.filter_map(|(index, line)| row(index + 1, line)).collect()
}

fn row(line: usize, text: &str) -> Option<Row> {
    let cells: Vec<&str> = text.split('|').map(str::trim).collect();
    let [_, layer, module, purpose, imports, forbidden, _] = cells[..] else { return None };
    let words = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let module = words(module).pop()?;
    let (may_import, forbidden) = (words(imports), words(forbidden));
    Some(Row { line, layer: layer.parse().ok()?, module, purpose: purpose.to_owned(), may_import, forbidden })
}

/// Module of a file: `relay` for `proxy/src/relay/pipe.rs`. `None` for test modules in files of
/// their own, declared by `mod tests;`.
fn module_of(path: &str) -> Option<&str> {
    let inside = path.strip_prefix(FOLDER)?;
    let is_test = inside.ends_with("/tests.rs") || inside.contains("/tests/");
    let module = inside.split('/').next()?.trim_end_matches(".rs");
    (!is_test && module != "lib").then_some(module)
}

/// Checks for a row for each module and a module for each row.
fn agreement(rows: &[Row], lib: &str) -> Vec<Finding> {
    let code = code_without_tests(lib);
    let declared: Vec<(usize, String)> = positions(&code, "mod")
        .into_iter()
        .map(|at| (line_of(&code, at), word_at(&code[at + 3..]).to_owned()))
        .chain([(1, "main".to_owned())])
        .collect();
    let no_row = declared.iter().filter(|(_, module)| !rows.iter().any(|row| row.module == *module));
    let no_row = no_row.map(|(line, module)| {
        Finding::new(LIB, *line, format!("module '{module}' has no row in the map"), "add the row")
    });
    let no_module = rows.iter().filter(|row| !declared.iter().any(|(_, module)| *module == row.module));
    let no_module = no_module.map(|row| {
        Finding::new(
            LIB,
            row.line,
            format!("the map has a row for '{}', which is no module", row.module),
            "remove the row",
        )
    });
    no_row.chain(no_module).collect()
}

/// Checks that a row permits no import from a higher layer.
fn layers(row: &Row, rows: &[Row]) -> Vec<Finding> {
    let target = |name: &String| rows.iter().find(|other| other.module == *name);
    let wrong = row.may_import.iter().filter_map(|name| match target(name) {
        None => Some(format!("'{}' may import '{name}', which has no row", row.module)),
        Some(other) if other.layer > row.layer => {
            Some(format!("'{}' (layer {}) may import '{name}' (layer {})", row.module, row.layer, other.layer))
        }
        Some(_) => None,
    });
    wrong.map(|rule| Finding::new(LIB, row.line, rule, "imports point downward: move what both need down")).collect()
}

/// Finds paths to modules missing in the row.
fn imports(row: &Row, rows: &[Row], path: &str, code: &str) -> Vec<Finding> {
    let known: BTreeSet<&str> = rows.iter().map(|row| row.module.as_str()).collect();
    let mut seen = BTreeSet::new();
    // The binary refers to the library by the name of the crate.
    let mut roots = vec![if row.module == "main" { "sluicegate::" } else { "crate::" }.to_owned()];
    roots.extend(super_root(path));
    for root in roots {
        let named = positions(code, root.trim_end_matches(':')).into_iter().filter(|at| {
            code[*at..].starts_with(&root) && (!root.starts_with("super") || !code[..*at].ends_with("::"))
        });
        for at in named {
            let names = first_segments(&code[at + root.len()..]);
            // `super::x` can also refer to a nested item, so count only modules.
            let names = names.into_iter().filter(|name| !root.starts_with("super") || known.contains(name));
            seen.extend(names.map(|name| (line_of(code, at), name.to_owned())));
        }
    }
    let allowed = |name: &String| *name == row.module || row.may_import.contains(name);
    let wrong = seen.into_iter().filter(|(_, name)| !allowed(name));
    wrong
        .map(|(line, name)| {
            let rule = format!("module '{}' imports '{name}', which its row in the map does not name", row.module);
            Finding::new(path, line, rule, "do without it, or name it in the row if its layer permits")
        })
        .collect()
}

/// Path of the crate's root by `super`: once in `x.rs` and `x/mod.rs`, twice in `x/y.rs`.
fn super_root(path: &str) -> Option<String> {
    let depth = path.strip_prefix(FOLDER)?.trim_end_matches("/mod.rs").matches('/').count();
    Some("super::".repeat(depth + 1))
}

/// First names behind `crate::`: one, or each of a group.
fn first_segments(code: &str) -> Vec<&str> {
    let Some(group) = code.strip_prefix('{') else { return vec![word_at(code)] };
    let (mut depth, mut names, mut fresh) = (0_usize, Vec::new(), true);
    for (at, c) in group.char_indices() {
        match c {
            '}' if depth == 0 => break,
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => fresh = true,
            c if fresh && !c.is_whitespace() => {
                names.push(word_at(&group[at..]));
                fresh = false;
            }
            _ => {}
        }
    }
    names
}

fn word_at(code: &str) -> &str {
    let code = code.trim_start();
    code.split(|c: char| c != '_' && !c.is_alphanumeric()).next().unwrap_or(code)
}

fn words(row: &Row, path: &str, code: &str) -> Vec<Finding> {
    let lines = |word: &String| lines_with_word(code, word).into_iter().map(|line| (line, word.clone())).collect();
    let found: Vec<(usize, String)> = row.forbidden.iter().flat_map::<Vec<_>, _>(lines).collect();
    found
        .into_iter()
        .map(|(line, word)| {
            let rule = format!("module '{}' mentions '{word}', which its row in the map forbids", row.module);
            Finding::new(path, line, rule, "move this to the module whose job it is")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP: &str = "\
//! | layer | module | purpose | may import | may not mention |
//! |---|---|---|---|---|
//! | 2 | `main` | starts | `top` | |
//! | 2 | `top` | the top | `low` | `tokio` |
//! | 0 | `low` | the bottom | | `async` |

pub mod low;
pub mod top;
";

    fn check_with(lib: &str, path: &str, text: &str) -> Vec<String> {
        let source = |path: &str, text: &str| Source { path: path.to_owned(), text: text.to_owned() };
        check(&[source(LIB, lib), source(path, text)]).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_summary_has_a_row_for_each_module() {
        let text = "| layer | module | purpose |\n|---|---|---|\n| 2 | `main` | starts |\n| 2 | `top` | the top |\n";
        assert_eq!(summary(MAP), format!("{text}| 0 | `low` | the bottom |\n"));
    }

    #[test]
    fn what_keeps_to_the_map_passes() {
        let top = "use crate::low::{A, B};\nuse crate::{low, top::c};\n// crate::other, tokio\nfn f() { g(\"tokio\") }";
        assert_eq!(check_with(MAP, "proxy/src/top.rs", top), Vec::<String>::new());
        let tests = "#[cfg(test)]\nmod tests { use crate::top; }";
        assert_eq!(check_with(MAP, "proxy/src/low.rs", tests), Vec::<String>::new());
        assert_eq!(check_with(MAP, "proxy/src/main.rs", "use sluicegate::top;"), Vec::<String>::new());
    }

    #[test]
    fn an_import_that_is_not_in_the_row_is_named() {
        let expected = "proxy/src/low.rs:2: module 'low' imports 'top', which";
        for import in ["use crate::top;", "use crate::{low, top::X};", "use super::top::X;", "type X = crate::top::X;"]
        {
            let found = check_with(MAP, "proxy/src/low.rs", &format!("\n{import}"));
            assert!(found.len() == 1 && found[0].starts_with(expected), "{import}: {found:?}");
        }
        let found = check_with(MAP, "proxy/src/low/part.rs", "use super::super::top;");
        assert!(found.len() == 1 && found[0].contains("imports 'top'"), "{found:?}");
        let found = check_with(MAP, "proxy/src/main.rs", "use sluicegate::low;");
        assert!(found.len() == 1 && found[0].contains("'main' imports 'low'"), "{found:?}");
    }

    #[test]
    fn a_forbidden_word_is_named() {
        let found = check_with(MAP, "proxy/src/low.rs", "\n\nasync fn f() {}");
        assert!(found[0].starts_with("proxy/src/low.rs:3: module 'low' mentions 'async'"), "{found:?}");
    }

    #[test]
    fn rows_and_modules_agree() {
        let found = check_with(&MAP.replace("pub mod low;", "pub mod lower;"), "x.rs", "");
        assert!(found[0].starts_with("proxy/src/lib.rs:7: module 'lower' has no row"), "{found:?}");
        assert!(found[1].starts_with("proxy/src/lib.rs:5: the map has a row for 'low'"), "{found:?}");
        assert!(check_with("//! no map", "x.rs", "")[0].contains("the crate docs hold the map"));
    }

    #[test]
    fn a_row_may_not_point_upward() {
        let found = check_with(&MAP.replace("bottom | |", "bottom | `top` `gone` |"), "x.rs", "");
        assert!(found[0].contains("'low' (layer 0) may import 'top' (layer 2)"), "{found:?}");
        assert!(found[1].contains("may import 'gone', which has no row"), "{found:?}");
    }
}
