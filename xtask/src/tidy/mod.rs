//! `cargo xtask tidy`: holds the code to the map in its crate docs, and the documentation to the
//! code. Each check is a function of text, tried on a good and a bad example.

mod habits;
mod map;
mod metrics;
mod options;
mod scan;

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::failure::{Context, Failure, Result};

/// A file of the workspace: its path from the root, and its text.
#[derive(Debug)]
struct Source {
    path: String,
    text: String,
}

/// A broken rule: where, which, and what to do.
#[derive(Debug, PartialEq)]
struct Finding {
    path: String,
    line: usize,
    rule: String,
    remedy: String,
}

impl Finding {
    fn new(path: &str, line: usize, rule: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, rule: rule.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}; {}", self.path, self.line, self.rule, self.remedy)
    }
}

/// Prints every broken rule. `fix` rewrites the options table of the README first.
///
/// # Errors
/// When a rule is broken or a file cannot be read.
pub fn run(fix: bool) -> Result<()> {
    let table = options_table()?;
    if fix {
        rewrite_readme(&table)?;
    }
    let mut files = Vec::new();
    read(crate::root(), "", &mut files)?;
    let readme = files.iter().find(|file| file.path == "README.md").map_or("", |file| &file.text);
    let mut findings: Vec<Finding> = files.iter().flat_map(habits::check_text).collect();
    findings.extend(options::check(readme, &table));
    let readme = readme.to_owned();
    files.retain(|file| file.path.ends_with(".rs"));
    findings.extend(files.iter().flat_map(habits::check_rust));
    findings.extend(map::check(&files));
    findings.extend(metrics::check(&files, &readme));
    report(&findings, files.len())
}

fn report(findings: &[Finding], files: usize) -> Result<()> {
    for finding in findings {
        println!("{finding}");
    }
    if findings.is_empty() {
        println!("tidy: {files} Rust files keep to the map and to the rules");
        return Ok(());
    }
    Err(Failure::new(format!("tidy: {} findings", findings.len())))
}

/// What `serve` understands, from the program itself.
fn options_table() -> Result<String> {
    let mut command = Command::new("cargo");
    command.args(["run", "--quiet", "-p", "sluicegate", "--", "options", "--markdown"]).current_dir(crate::root());
    let output = command.output().context("starting cargo")?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(Failure::new(format!("sluicegate options --markdown failed:\n{why}")));
    }
    String::from_utf8(output.stdout).map_err(|_| Failure::new("sluicegate options --markdown is not UTF-8"))
}

fn rewrite_readme(table: &str) -> Result<()> {
    let path = crate::root().join("README.md");
    let readme = fs::read_to_string(&path).context(path.display())?;
    let fixed = options::rewrite(&readme, table).map_err(|finding| Failure::new(finding.to_string()))?;
    if fixed == readme { Ok(()) } else { fs::write(&path, fixed).context(path.display()) }
}

/// Every text file below `folder` that is not made by a tool.
fn read(root: &Path, folder: &str, files: &mut Vec<Source>) -> Result<()> {
    let here = root.join(folder);
    for entry in fs::read_dir(&here).context(here.display())? {
        let entry = entry.context(here.display())?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
        let kind = entry.file_type().context(&path)?;
        if kind.is_dir() && !is_generated(&name) {
            read(root, &path, files)?;
        } else if kind.is_file() && name != ".git" {
            // What is not UTF-8 is no text: a seed of the fuzzer, an object file.
            files.extend(fs::read_to_string(entry.path()).ok().map(|text| Source { path, text }));
        }
    }
    Ok(())
}

fn is_generated(folder: &str) -> bool {
    ["target", "corpus", "artifacts", ".git"].contains(&folder)
}
