//! The command line: the subcommands, with their help and examples.

use clap::{CommandFactory as _, Parser, Subcommand};

use super::doctor::Doctor;
use super::drain::Drain;
use super::hash_password::HashPassword;
use super::kill::Kill;
use super::pages::{Completions, Man};
use super::rates::Rates;
use super::tunnels::Tunnels;
use crate::config::{Check, Explain, Serve};

/// Printed for a command line without arguments.
pub const FIRST_STEPS: &str = "\
sluicegate is a CONNECT tunnel gateway for bulk transfers, and needs a command. To try it:

  # Check this host
  sluicegate doctor
  # Make a user, and serve on port 3128
  sluicegate hash-password ann >>users
  sluicegate serve --users-file users
  # In another terminal
  curl -x http://ann:PASSWORD@127.0.0.1:3128 https://example.com/

`sluicegate --help` lists the commands, `sluicegate COMMAND --help` explains one.
";

/// A CONNECT tunnel gateway for bulk transfers, which splices sockets in the kernel
///
/// Clients ask the gateway for a tunnel by HTTP CONNECT. The gateway authenticates the client,
/// checks the target against its rules, and connects to it. The bytes of the tunnel then move in
/// the kernel, from socket to socket.
///
/// Exit codes: 0 success, 1 failure at work, 2 wrong usage or configuration.
#[derive(Debug, Parser)]
#[command(name = "sluicegate", version, max_term_width = 100, after_help = PROGRAM)]
pub struct Cli {
    /// The subcommand.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the gateway
    ///
    /// Accepts clients until SIGTERM, then drains: it stops listening and ends with its last
    /// tunnel. A second SIGTERM resets the tunnels that are left. SIGHUP reloads users and
    /// certificate.
    #[command(after_help = SERVE)]
    Serve(Box<Serve>),
    /// Validate a configuration without running it
    ///
    /// Takes the options of `serve`. Reports every error with the option, the file and line, the
    /// cause and the remedy, and warns of what is probably a mistake: world-readable keys, an open
    /// proxy, users about to expire. Exits with 2 on errors.
    #[command(after_help = CHECK)]
    Check(Box<Check>),
    /// Show which engine runs on this host, and what costs speed
    ///
    /// Tries the engines as `serve` does at its start, and checks limits, sysctls and the kernel.
    /// Run it as the user and in the container or systemd unit of the gateway: limits differ.
    ///
    /// Exit code 0: the first engine of --engine runs. 1: the gateway runs degraded: a later engine
    /// of the list, fewer than 32 pipes of 1 MiB for an engine that uses pipes, or descriptors for
    /// fewer than 200 tunnels. 2: the gateway cannot run, because no engine passes its self-test,
    /// no tunnel fits in the descriptor limit, or there is no event loop; also wrong usage. Other
    /// slow checks are advice and do not change the exit code.
    #[command(after_help = DOCTOR)]
    Doctor(Doctor),
    /// Show which rule permits or refuses a target
    ///
    /// Resolves the target and applies the rules as `serve` does for a client, without connecting
    /// to it. Prints the rule for each address, and the addresses or the parent proxy that would be
    /// dialled. Exits with 1 if the target is refused.
    #[command(after_help = EXPLAIN)]
    Explain(Box<Explain>),
    /// List the open tunnels of a running gateway
    #[command(after_help = TUNNELS)]
    Tunnels(Tunnels),
    /// Reset tunnels of a running gateway
    #[command(after_help = KILL)]
    Kill(Kill),
    /// Show or change the rate limits of a running gateway
    ///
    /// Without arguments, shows them. A change takes effect at once, open tunnels included, and
    /// lasts until the gateway ends.
    #[command(after_help = RATES)]
    Rates(Rates),
    /// Drain a running gateway, as SIGTERM does
    ///
    /// The gateway stops listening and ends with its last tunnel.
    #[command(after_help = DRAIN)]
    Drain(Drain),
    /// Print a line for the users file
    ///
    /// Reads the password from the terminal, twice, or one line of standard input.
    #[command(after_help = HASH_PASSWORD)]
    HashPassword(HashPassword),
    /// Write man pages
    ///
    /// Writes sluicegate.1 and a page for each subcommand, sluicegate-serve.1 and so on.
    #[command(after_help = MAN)]
    Man(Man),
    /// Print the completions of a shell
    #[command(after_help = COMPLETIONS)]
    Completions(Completions),
    /// Print the options of `serve` as Markdown tables
    #[command(hide = true)]
    Options {
        /// Print Markdown, the only format.
        #[arg(long, required = true)]
        markdown: bool,
    },
    /// Print why connections end, as the Markdown table of docs/troubleshooting.md
    #[command(hide = true)]
    Reasons,
}

/// The definition of the whole command line.
///
/// Variables are left out of the help of each option: their names follow from the options', as
/// the help of `serve` says.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command().mut_subcommands(|command| command.mut_args(|argument| argument.hide_env(true)))
}

const PROGRAM: &str = "\
Examples:
  # Check this host, then run an open proxy on loopback
  sluicegate doctor
  sluicegate serve --no-auth --listen 127.0.0.1:3128
  # All options of a command, with a paragraph for each
  sluicegate serve --help";

const SERVE: &str = "\
Examples:
  # An open proxy on loopback
  sluicegate serve --no-auth --listen 127.0.0.1:3128
  # One user, named by a variable
  SLUICEGATE_USER='migrator:s3cret' sluicegate serve
  # Users of a file, and the targets of one cluster
  sluicegate serve --users-file users --allow '*.apps.east.example:443'
  # A configuration file
  sluicegate serve --config gateway.toml

Settings:
  Each option is also a variable, SLUICEGATE_ and its name: SLUICEGATE_MAX_TUNNELS=200. Lists in a
  variable are separated by semicolons. Each option but --config is also a key of the
  configuration file: max-tunnels = 200. A flag takes precedence over a variable, and a variable
  over the file.";

const CHECK: &str = "\
Examples:
  sluicegate check --config gateway.toml
  # For programs: a JSON array, and exit code 2 on warnings too
  sluicegate check --config gateway.toml --strict --json";

const DOCTOR: &str = "\
Examples:
  sluicegate doctor
  # Before --engine sockmap is used
  sluicegate doctor --engine sockmap
  # For programs
  sluicegate doctor --json";

const EXPLAIN: &str = "\
Examples:
  sluicegate explain api.east.example:6443
  sluicegate explain --allow '10.0.0.0/8:*' 10.1.2.3:22
  # With the user's own limits from the configuration file
  sluicegate explain --config gateway.toml --user ann --from 10.9.8.7 api.east.example:6443";

const TUNNELS: &str = "\
Examples:
  sluicegate tunnels
  # Tunnels without activity for ten minutes
  sluicegate tunnels --json | jq '.[] | select(.quiet_seconds > 600)'
  # Over TCP instead of the control socket
  sluicegate tunnels --admin 127.0.0.1:9128";

const KILL: &str = "\
Examples:
  # The tunnels 17 and 18, as numbered by `sluicegate tunnels`
  sluicegate kill 17 18
  sluicegate kill --control /run/sluicegate/control.sock 17";

const RATES: &str = "\
Examples:
  sluicegate rates
  # All tunnels of a user together
  sluicegate rates --user ann 100MiB
  # No limit for one tunnel
  sluicegate rates --tunnel 17 none
  # Back to the configured limit of each tunnel
  sluicegate rates --each-tunnel configured";

const DRAIN: &str = "\
Examples:
  sluicegate drain
  # Return when the last tunnel and the gateway have ended
  sluicegate drain --wait";

const HASH_PASSWORD: &str = "\
Examples:
  # Asks for the password
  sluicegate hash-password ann >>users
  # Reads it from standard input
  echo \"$PASSWORD\" | sluicegate hash-password ann --algorithm sha512-crypt >>users";

const MAN: &str = "\
Examples:
  sluicegate man /usr/local/share/man/man1
  # Read a page without installing it
  sluicegate man /tmp/pages && man /tmp/pages/sluicegate-serve.1";

const COMPLETIONS: &str = "\
Examples:
  sluicegate completions bash >/usr/share/bash-completion/completions/sluicegate
  sluicegate completions zsh >/usr/local/share/zsh/site-functions/_sluicegate
  sluicegate completions fish >/usr/share/fish/vendor_completions.d/sluicegate.fish";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::heading;

    /// Command lines of the examples, without the shell's variables, pipes and redirections.
    fn examples(help: &str) -> Vec<Vec<String>> {
        let mut examples = Vec::new();
        for line in help.lines().filter(|line| line.starts_with("  ") && !line.starts_with("  #")) {
            for part in line.split([';', '|']).flat_map(|part| part.split("&&")) {
                let Some(at) = part.find("sluicegate ") else { continue };
                let is_command = part[..at].split_whitespace().all(|word| word.contains('='));
                if is_command {
                    let part = part[at..].split('>').next().unwrap_or_default();
                    let words = part.split_whitespace().map(|word| word.trim_matches(['\'', '"']).to_owned());
                    examples.push(words.collect());
                }
            }
        }
        examples
    }

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn every_option_of_the_large_commands_has_a_group() {
        for name in ["serve", "check", "explain"] {
            let command = command();
            let of = command.find_subcommand(name).unwrap();
            for argument in of.get_arguments().filter(|argument| !argument.is_positional()) {
                let group = argument.get_help_heading().unwrap_or_default();
                let own = name != "serve" && ["Output", "Request"].contains(&group);
                assert!(own || heading::ALL.contains(&group), "{name} {argument}: {group}");
            }
        }
        let serve = command();
        let arguments = serve.find_subcommand("serve").unwrap().get_arguments();
        let mut order: Vec<_> = arguments.filter_map(clap::Arg::get_help_heading).collect();
        order.sort_unstable();
        order.dedup();
        assert_eq!(order.len(), heading::ALL.len());
    }

    #[test]
    fn short_help_is_one_line_an_option() {
        let command = command();
        for name in command.get_subcommands().map(|command| command.get_name().to_owned()) {
            let mut of = self::command().term_width(100);
            of.build();
            let of = of.find_subcommand_mut(&name).unwrap();
            let help = of.render_help().to_string();
            let wide = help.lines().find(|line| line.chars().count() > 100);
            assert_eq!(wide, None, "{name}");
            let of_option = |line: &&str| line.trim_start().starts_with("--") || line.trim_start().starts_with("-h");
            let shown = of.get_arguments().filter(|argument| !argument.is_hide_set() && !argument.is_positional());
            assert_eq!(help.lines().filter(of_option).count(), shown.count(), "{help}");
            // Neither wrapped nor on a line of its own.
            for line in help.lines().filter(of_option) {
                assert!(line.trim_start().contains("  "), "{name}: {line}");
            }
            let parts = help.split("\n\n").filter(|part| part.contains("\n  ") && !part.starts_with("Examples"));
            for part in parts.filter(|part| !part.starts_with("Settings")) {
                let lines = part.lines().skip(1);
                assert!(lines.clone().all(|line| !line.starts_with("         ")), "{name} wraps:\n{part}");
            }
        }
    }

    #[test]
    fn headings_stand_in_their_order() {
        let mut command = command();
        command.build();
        let help = command.find_subcommand_mut("serve").unwrap().render_help().to_string();
        let places: Vec<_> = heading::ALL.map(|heading| help.find(&format!("\n{heading}:\n"))).to_vec();
        assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?}\n{help}");
    }

    #[test]
    fn every_command_has_examples_that_parse() {
        let command = command();
        for of in command.get_subcommands().filter(|of| !of.is_hide_set() && of.get_name() != "help") {
            let help = of.get_after_help().map(ToString::to_string).unwrap_or_default();
            let lines = examples(&help);
            let own = lines.iter().filter(|words| words[1] == of.get_name()).count();
            assert!((2..=4).contains(&own), "{}: {help}", of.get_name());
            assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
            for words in lines {
                let parsed = self::command().try_get_matches_from(&words);
                assert!(parsed.is_ok(), "{words:?}: {}", parsed.unwrap_err());
            }
        }
        for words in [examples(FIRST_STEPS), examples(PROGRAM)].concat() {
            let parsed = self::command().try_get_matches_from(&words);
            assert!(parsed.is_ok() || words[2..] == ["--help"], "{words:?}: {}", parsed.unwrap_err());
        }
    }
}
