//! Patterns forbidden in every file of the workspace.

use super::finding::{Finding, Source};
use super::scan::{code, line_of, positions};

/// Maximum number of lines of a file before its tests.
const MAX_LINES: usize = 400;

/// A forbidden piece of code, and its replacement.
struct Habit {
    text: &'static str,
    instead: &'static str,
}

const HABITS: &[Habit] = &[
    Habit { text: "#[ignore", instead: "make the test reliable, or remove it" },
    Habit { text: "allow(dead_code)", instead: "remove what is dead" },
];

/// Folders of one machine; split, so that this file passes.
const MACHINE_PATHS: &[&str] = &[concat!("/", "root/"), concat!("/", "home/"), concat!("/", "work/")];

/// Findings in a Rust file.
pub(super) fn check_rust(source: &Source) -> Vec<Finding> {
    let code = code(&source.text);
    let mut findings = Vec::new();
    for habit in HABITS {
        for (at, _) in code.match_indices(habit.text) {
            let rule = format!("'{}' is not written here", habit.text);
            findings.push(Finding::new(&source.path, line_of(&code, at), rule, habit.instead));
        }
    }
    findings.extend(too_long(source));
    findings
}

/// Finding for a file over the limit; files of tests are exempt.
fn too_long(source: &Source) -> Option<Finding> {
    let is_test =
        source.path.starts_with("tests/") || source.path.ends_with("/tests.rs") || source.path.contains("/tests/");
    let code = code(&source.text);
    let tests = positions(&code, "mod").into_iter().find(|at| code[*at..].starts_with("mod tests {"));
    let lines = tests.map_or(code.lines().count(), |at| line_of(&code, at) - 2);
    let rule = format!("{lines} lines before the tests are more than {MAX_LINES}");
    (!is_test && lines > MAX_LINES)
        .then(|| Finding::new(&source.path, lines, rule, "find the second idea in it and give that a file"))
}

/// Findings of one module style in all Rust files: a module with a folder is `x/mod.rs`, not
/// `x.rs`.
pub(super) fn check_modules(sources: &[Source]) -> Vec<Finding> {
    let has_folder = |path: &str| {
        let folder = format!("{}/", path.trim_end_matches(".rs"));
        sources.iter().any(|other| other.path.starts_with(&folder))
    };
    let beside = sources.iter().filter(|source| has_folder(&source.path));
    let remedy = |path: &str| format!("move it to {}/mod.rs", path.trim_end_matches(".rs"));
    beside
        .map(|source| Finding::new(&source.path, 1, "the module stands beside its folder", remedy(&source.path)))
        .collect()
}

/// Findings in any text file.
pub(super) fn check_text(source: &Source) -> Vec<Finding> {
    let found = MACHINE_PATHS.iter().flat_map(|path| source.text.match_indices(path));
    let found =
        found.filter(|(at, _)| !source.text[..*at].ends_with(|c: char| c.is_alphanumeric() || "._-/}".contains(c)));
    let rule = |path: &str| format!("'{path}' is a folder of somebody's machine");
    found
        .map(|(at, path)| Finding::new(&source.path, line_of(&source.text, at), rule(path), "name it by its purpose"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rust(path: &str, text: &str) -> Vec<String> {
        let source = Source { path: path.to_owned(), text: text.to_owned() };
        check_rust(&source).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_habit_is_named_in_code_and_not_in_words_about_it() {
        for habit in HABITS {
            let found = rust("a.rs", &format!("\n{}", habit.text));
            assert!(found.len() == 1 && found[0].starts_with("a.rs:2: "), "{found:?}");
            assert_eq!(rust("a.rs", &format!("// {0}\nconst X: &str = \"{0}\";", habit.text)), Vec::<String>::new());
        }
    }

    #[test]
    fn length_is_counted_up_to_the_tests() {
        let code = "fn f() {}\n".repeat(MAX_LINES);
        let tests = format!("{code}#[cfg(test)]\nmod tests {{\n{code}}}\n");
        assert_eq!(rust("a.rs", &tests), Vec::<String>::new());
        assert!(
            rust("a.rs", &format!("fn g() {{}}\n{tests}"))[0]
                .contains(&format!("{} lines before the tests", MAX_LINES + 1))
        );
        assert!(rust("a.rs", &code.repeat(2))[0].contains(&format!("{} lines", 2 * MAX_LINES)));
    }

    #[test]
    fn a_module_with_a_folder_is_in_it() {
        let found = |paths: &[&str]| {
            let source = |path: &&str| Source { path: (*path).to_owned(), text: String::new() };
            let found = check_modules(&paths.iter().map(source).collect::<Vec<_>>());
            found.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(found(&["a/x/mod.rs", "a/x/y.rs", "a/xx.rs"]), Vec::<String>::new());
        let remedy = "a/x.rs:1: the module stands beside its folder; move it to a/x/mod.rs";
        assert_eq!(found(&["a/x.rs", "a/x/y.rs"]), [remedy]);
    }

    #[test]
    fn machine_paths_are_named() {
        let text = |text: String| check_text(&Source { path: "a.md".to_owned(), text }).len();
        assert_eq!(text(format!("see {}x", MACHINE_PATHS[0])), 1);
        assert_eq!(text(format!("https://example.org{0}x and a{0}b", MACHINE_PATHS[1])), 0);
    }
}
