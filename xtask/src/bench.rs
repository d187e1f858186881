//! `cargo xtask bench`: builds for release, installs the contenders, and compares them.

use std::path::Path;
use std::process::Command;

use crate::failure::Result;
use crate::subprocess::succeed;
use crate::workspace::root;
use crate::{demo, tools};

/// Default folder of the results, below the root.
const FOLDER: &str = "target/bench";

/// Compares, or runs another command of `sluicegate-bench` if `arguments` start with its name, and
/// passes `arguments` on.
///
/// # Errors
/// The build or the command fails.
pub fn run(arguments: &[String]) -> Result<()> {
    let (command, arguments) = split(arguments);
    let binaries = demo::build(&["sluicegate", "sluicegate-bench"])?;
    let mut bench = Command::new(binaries.join("sluicegate-bench"));
    bench.arg(command);
    if let "compare" | "scale" = command {
        install(arguments);
        bench.args(output(command, arguments));
    }
    if let "compare" | "scale" | "rates" = command {
        bench.arg("--gateway").arg(binaries.join("sluicegate"));
    }
    succeed(bench.args(arguments))
}

fn split(arguments: &[String]) -> (&str, &[String]) {
    match arguments.split_first() {
        Some((first, rest)) if !first.starts_with('-') => (first, rest),
        _ => ("compare", arguments),
    }
}

/// Installs missing contenders. If that fails, reports it and compares the present ones.
fn install(arguments: &[String]) {
    let missing = tools::missing(tools::CONTENDERS);
    let chosen = has(arguments, "--contenders") || has(arguments, "--against");
    if missing.is_empty() || chosen || has(arguments, "--help") {
        return;
    }
    println!("{}", tools::apt_line(&missing));
    match tools::install(&missing) {
        Err(failure) => eprintln!("xtask: {failure}"),
        Ok(()) if Path::new("/run/systemd/system").exists() => {
            println!("Debian starts what it installs; 'systemctl disable --now nginx squid haproxy' ends that");
        }
        Ok(()) => {}
    }
}

/// Options that write the results to the default folder, unless given.
fn output(command: &str, arguments: &[String]) -> Vec<String> {
    let folder = root().canonicalize().unwrap_or_else(|_| root().to_owned()).join(FOLDER);
    let mut options = Vec::new();
    for (option, path) in [("--json", folder.join(format!("{command}.json"))), ("--plots", folder)] {
        if !has(arguments, option) {
            options.extend([option.to_owned(), path.display().to_string()]);
        }
    }
    options
}

fn has(arguments: &[String], option: &str) -> bool {
    arguments.iter().any(|argument| argument.split('=').next() == Some(option))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn the_first_word_is_the_command_unless_it_is_an_option() {
        assert_eq!(split(&words("scale --quick")), ("scale", &words("--quick")[..]));
        assert_eq!(split(&words("--quick")), ("compare", &words("--quick")[..]));
        assert_eq!(split(&[]), ("compare", &[][..]));
    }

    #[test]
    fn results_go_to_the_usual_place_unless_the_arguments_name_one() {
        assert_eq!(output("compare", &words("--json=a --plots b")), Vec::<String>::new());
        let options = output("scale", &words("--quick --plots b"));
        assert!(options.len() == 2 && options[1].ends_with("target/bench/scale.json"), "{options:?}");
    }
}
