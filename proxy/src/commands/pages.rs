//! `sluicegate man` and `sluicegate completions`: files made from the definition of the command
//! line.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Command};
use clap_complete::Shell;
use clap_mangen::Man as Page;
use clap_mangen::roff::{Roff, roman};

/// The options of `man`.
#[derive(Args, Debug)]
pub struct Man {
    /// Folder of the pages; made if it does not exist
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
}

/// The options of `completions`.
#[derive(Args, Debug)]
pub struct Completions {
    /// Shell of the completions
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

impl Man {
    /// Writes the pages of the program and of each subcommand; returns the text to print.
    ///
    /// # Errors
    /// The error of making the folder or a file, for the user.
    pub fn run(&self, command: Command) -> Result<String, String> {
        let directory = self.directory.as_path();
        let failed = |path: &Path, error: &io::Error| {
            format!("{}: cannot be written: {error}; name a folder that this user may write", path.display())
        };
        fs::create_dir_all(directory).map_err(|error| failed(directory, &error))?;
        let mut all = command.disable_help_subcommand(true);
        all.build();
        let subcommands = all.get_subcommands().filter(|command| !command.is_hide_set());
        let pages: Vec<Command> = std::iter::once(&all).chain(subcommands).cloned().collect();
        for page in &pages {
            let path = directory.join(format!("{}.1", page.get_display_name().unwrap_or_else(|| page.get_name())));
            fs::File::create(&path).and_then(|file| render(page, file)).map_err(|error| failed(&path, &error))?;
        }
        Ok(format!("wrote {} man pages to {}", pages.len(), directory.display()))
    }
}

/// Writes a man page: the sections of `clap_mangen`, except for the text after the options.
///
/// `clap_mangen` fills this text as one paragraph, but its examples need a line each.
fn render(command: &Command, mut to: impl Write) -> io::Result<()> {
    let title = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let source = format!("sluicegate {}", env!("CARGO_PKG_VERSION"));
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ").to_owned();
    let page = Page::new(command.clone().override_usage(usage))
        .title(title.to_uppercase())
        .source(source)
        .manual("User Commands");
    page.render_title(&mut to)?;
    page.render_name_section(&mut to)?;
    page.render_synopsis_section(&mut to)?;
    page.render_description_section(&mut to)?;
    page.render_options_section(&mut to)?;
    if command.get_subcommands().any(|command| !command.is_hide_set()) {
        page.render_subcommands_section(&mut to)?;
    }
    let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let mut rest = Roff::new();
    for line in after.lines().filter(|line| !line.is_empty()) {
        match (line.strip_prefix("  "), line.strip_suffix(':')) {
            (None, Some(heading)) => {
                rest.control("SH", [heading.to_uppercase().as_str()]);
            }
            // Each line as it is: a command, or a line of a paragraph.
            (text, _) => {
                rest.text([roman(text.unwrap_or(line))]);
                rest.control("br", []);
            }
        }
    }
    rest.to_writer(&mut to)?;
    to.flush()
}

impl Completions {
    /// Returns the script of the shell.
    #[must_use]
    pub fn run(&self, mut command: Command) -> String {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "sluicegate", &mut script);
        String::from_utf8_lossy(&script).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::super::line::command;
    use super::*;
    use clap::ValueEnum as _;

    #[test]
    fn every_command_has_a_page_with_its_examples() {
        let directory = tempfile::tempdir().unwrap();
        let pages = directory.path().join("new/man1");
        let said = Man { directory: pages.clone() }.run(command()).unwrap();
        let commands = command();
        let names: Vec<_> =
            commands.get_subcommands().filter(|one| !one.is_hide_set()).map(Command::get_name).collect();
        assert_eq!(said, format!("wrote {} man pages to {}", names.len() + 1, pages.display()));
        assert_eq!(fs::read_dir(&pages).unwrap().count(), names.len() + 1);
        for name in names {
            let page = fs::read_to_string(pages.join(format!("sluicegate-{name}.1"))).unwrap();
            let name = name.replace('-', "\\-");
            assert!(page.contains(".SH EXAMPLES\n") && page.contains(&format!("sluicegate {name}")), "{page}");
        }
        let serve = fs::read_to_string(pages.join("sluicegate-serve.1")).unwrap();
        assert!(
            serve.contains(".SH \"LIMITS AND RATES\"\n") && serve.contains("SLUICEGATE_MAX_TUNNELS=200"),
            "{serve}"
        );
        let all = fs::read_to_string(pages.join("sluicegate.1")).unwrap();
        assert!(all.contains("sluicegate\\-serve(1)") && !all.contains("sluicegate\\-options"), "{all}");

        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        let error = Man { directory: file.clone() }.run(command()).unwrap_err();
        assert!(error.starts_with(&format!("{}: cannot be written: ", file.display())), "{error}");
    }

    #[test]
    fn completions_know_every_command_and_option() {
        for shell in Shell::value_variants() {
            let script = Completions { shell: *shell }.run(command());
            for word in ["hash-password", "completions", "max-tunnels-per-user", "sha512-crypt"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
    }
}
