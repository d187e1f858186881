//! The options of `serve` as Markdown.

use std::fmt::Write as _;

use clap::{Arg, Command};

use super::heading;

/// Tables of the options of `serve`, one for each heading.
#[must_use]
pub fn markdown(command: &Command) -> String {
    let serve = command.find_subcommand("serve").expect("the subcommand serve");
    let mut tables = String::new();
    for heading in heading::ALL {
        let _ = writeln!(tables, "### {heading}\n\n| option | variable | meaning |\n|---|---|---|");
        let of = |argument: &&Arg| argument.get_help_heading() == Some(heading) && !argument.is_hide_set();
        for argument in serve.get_arguments().filter(of) {
            let (Some(long), Some(env)) = (argument.get_long(), argument.get_env()) else { continue };
            let value = argument.get_value_names().filter(|_| argument.get_action().takes_values());
            let value = value.map(|names| format!(" {}", names.join(" "))).unwrap_or_default();
            let _ = writeln!(tables, "| `--{long}{value}` | `{}` | {} |", env.to_string_lossy(), meaning(argument));
        }
        tables.push('\n');
    }
    tables
}

/// The whole help of an option, its default first.
fn meaning(argument: &Arg) -> String {
    let short = argument.get_help().map(ToString::to_string).unwrap_or_default();
    let long = argument.get_long_help().map(ToString::to_string).unwrap_or_default();
    let defaults = argument.get_default_values().iter().map(|value| value.to_string_lossy());
    let defaults = defaults.collect::<Vec<_>>().join(" ");
    let mut text = short.clone();
    if !defaults.is_empty() && argument.get_action().takes_values() {
        let _ = write!(text, " [default: {defaults}]");
    }
    text.push('.');
    for paragraph in long.split("\n\n").skip(1) {
        let _ = write!(text, " {}", paragraph.replace('\n', " "));
    }
    escape(&text)
}

/// Escapes the special characters of Markdown.
fn escape(text: &str) -> String {
    text.replace('|', "\\|").replace('*', "\\*").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Serve;
    use clap::Args;

    #[test]
    fn every_option_has_a_variable_of_its_name_and_a_row() {
        let command = Command::new("sluicegate").subcommand(Serve::augment_args(Command::new("serve")));
        let tables = markdown(&command);
        for argument in command.find_subcommand("serve").unwrap().get_arguments() {
            let Some(long) = argument.get_long().filter(|long| *long != "help") else { continue };
            let expected = format!("SLUICEGATE_{}", long.replace('-', "_").to_uppercase());
            assert_eq!(argument.get_env().unwrap().to_string_lossy(), expected);
            let has_row = ["`", " "].iter().any(|next| tables.contains(&format!("| `--{long}{next}")));
            assert_eq!(has_row, !argument.is_hide_set(), "{long}");
        }
        assert!(tables.contains("[default: 10s]. All addresses of a target together"), "{tables}");
    }
}
