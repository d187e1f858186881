//! `cargo xtask tidy`: checks the code against the map in its crate docs, and the documentation
//! against the code. Each check is a function of text, tested with a good and a bad example.

mod cycles;
mod finding;
mod generated;
mod habits;
mod links;
mod map;
mod metrics;
mod numbers;
mod prose;
mod readme;
mod scan;

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::failure::{Context, Failure, Result};
use finding::{Finding, Source};
use generated::Generated;

/// Prints every violated rule. `fix` first rewrites the generated tables of the documents.
///
/// # Errors
/// A rule is violated or a file cannot be read.
pub fn run(fix: bool) -> Result<()> {
    let mut files = Vec::new();
    read(crate::workspace::root(), "", &mut files)?;
    let mut findings = generated_tables(fix, &mut files)?;
    findings.extend(files.iter().flat_map(habits::check_text));
    findings.extend(links::check(&files, |path| crate::workspace::root().join(path).exists()));
    findings.extend(readme::check(text_of(&files, readme::README)));
    let operations = text_of(&files, metrics::DOCUMENT).to_owned();
    files.retain(|file| file.path.ends_with(".rs"));
    findings.extend(files.iter().flat_map(habits::check_rust));
    findings.extend(habits::check_modules(&files));
    findings.extend(files.iter().flat_map(prose::check_lines));
    findings.extend(prose::check_pronouns(&files));
    findings.extend(map::check(&files));
    findings.extend(cycles::check(&files));
    findings.extend(metrics::check(&files, &operations));
    report(&findings, files.len())
}

fn text_of<'a>(files: &'a [Source], path: &str) -> &'a str {
    files.iter().find(|file| file.path == path).map_or("", |file| &file.text)
}

/// Checks each generated table, after rewriting it if `fix`.
fn generated_tables(fix: bool, files: &mut [Source]) -> Result<Vec<Finding>> {
    let mut tables = vec![
        Generated {
            document: "docs/configuration.md",
            name: "options",
            table: printed_by(&["options", "--markdown"])?,
        },
        Generated { document: "docs/architecture.md", name: "map", table: map::summary(text_of(files, map::LIB)) },
        Generated { document: "docs/troubleshooting.md", name: "reasons", table: printed_by(&["reasons"])? },
    ];
    let mut findings = Vec::new();
    match numbers::table(text_of(files, numbers::BENCHMARKS)) {
        Ok(table) => tables.push(Generated { document: readme::README, name: "numbers", table }),
        Err(finding) => findings.push(finding),
    }
    for generated in tables {
        let file = files.iter_mut().find(|file| file.path == generated.document);
        if let (true, Some(file)) = (fix, file) {
            let fixed = generated.rewrite(&file.text).map_err(|finding| Failure::new(finding.to_string()))?;
            if fixed != file.text {
                fs::write(crate::workspace::root().join(&file.path), &fixed).context(&file.path)?;
                file.text = fixed;
            }
        }
        findings.extend(generated.check(text_of(files, generated.document)));
    }
    Ok(findings)
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

/// Table printed by the program itself.
fn printed_by(arguments: &[&str]) -> Result<String> {
    let name = format!("sluicegate {}", arguments.join(" "));
    let mut command = Command::new("cargo");
    command.args(["run", "--quiet", "-p", "sluicegate", "--"]).args(arguments).current_dir(crate::workspace::root());
    let output = command.output().context("starting cargo")?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(Failure::new(format!("{name} failed:\n{why}")));
    }
    String::from_utf8(output.stdout).map_err(|_| Failure::new(format!("{name} is not UTF-8")))
}

/// Reads every text file below `folder`, except generated ones.
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
            // Files without valid UTF-8 are no text: seeds of the fuzzer, object files.
            files.extend(fs::read_to_string(entry.path()).ok().map(|text| Source { path, text }));
        }
    }
    Ok(())
}

fn is_generated(folder: &str) -> bool {
    ["target", "corpus", "artifacts", ".git"].contains(&folder)
}
