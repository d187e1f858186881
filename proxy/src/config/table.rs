//! The options as a table and as a man page.

use std::fmt::Write as _;
use std::io;

use clap::Command;

/// The options of `serve` as the README has them.
#[must_use]
pub fn markdown(command: &Command) -> String {
    let serve = command.find_subcommand("serve").expect("the subcommand serve");
    let mut table = String::from("| option | environment | what it does |\n|---|---|---|\n");
    for argument in serve.get_arguments().filter(|argument| !argument.is_hide_set()) {
        let (Some(long), Some(env)) = (argument.get_long(), argument.get_env()) else { continue };
        let value = argument.get_value_names().filter(|_| argument.get_action().takes_values());
        let value = value.map(|names| format!(" {}", names.join(" "))).unwrap_or_default();
        let defaults = argument.get_default_values().iter().map(|value| value.to_string_lossy());
        let defaults = defaults.collect::<Vec<_>>().join(" ");
        let mut help = argument.get_help().map(ToString::to_string).unwrap_or_default().replace('|', "\\|");
        if !defaults.is_empty() && argument.get_action().takes_values() {
            let _ = write!(help, " [default: {defaults}]");
        }
        let _ = writeln!(table, "| `--{long}{value}` | `{}` | {} |", env.to_string_lossy(), escape(&help));
    }
    table
}

/// Keeps `*` and `<` from being taken for markup.
fn escape(text: &str) -> String {
    text.replace('*', "\\*").replace('<', "&lt;")
}

/// The man page, one for all the subcommands.
///
/// # Errors
/// Those of writing to `to`.
pub fn man(command: &Command, to: &mut impl io::Write) -> io::Result<()> {
    clap_mangen::Man::new(command.clone()).render(to)?;
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        clap_mangen::Man::new(sub.clone()).title(format!("sluicegate-{}", sub.get_name())).render(to)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Serve;
    use clap::Args;

    #[test]
    fn every_option_has_a_variable_of_its_name() {
        let command = Command::new("sluicegate").subcommand(Serve::augment_args(Command::new("serve")));
        let table = markdown(&command);
        for argument in command.find_subcommand("serve").unwrap().get_arguments() {
            let Some(long) = argument.get_long().filter(|long| *long != "help") else { continue };
            let expected = format!("SLUICEGATE_{}", long.replace('-', "_").to_uppercase());
            assert_eq!(argument.get_env().unwrap().to_string_lossy(), expected);
            assert!(table.contains(&format!("`--{long}")), "{long}");
        }
    }
}
