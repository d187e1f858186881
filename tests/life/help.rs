//! Help, man pages and completions, which need no configuration.

use std::fs;
use std::process::Command;

use crate::support::binary::{BINARY, in_clean_environment};
use crate::support::process::{program, run, sluicegate};

#[test]
fn without_arguments_the_first_steps_are_shown() {
    let outcome = sluicegate::<&str>(&[], &[]);
    assert_eq!((outcome.code, outcome.out.as_str()), (Some(2), ""), "{outcome:?}");
    assert!(outcome.err.contains("\n  sluicegate serve ") && outcome.err.contains("curl -x http://"), "{outcome:?}");
    assert!(outcome.err.lines().all(|line| line.chars().count() <= 100), "{outcome:?}");
}

#[test]
fn help_comes_on_standard_output_and_shows_no_value_of_a_variable() {
    for arguments in [&["-h"][..], &["--help"], &["help", "serve"], &["serve", "-h"], &["serve", "--help"]] {
        let outcome = sluicegate(arguments, &[("SLUICEGATE_USER", "ann:hunter2"), ("SLUICEGATE_LOG_LEVEL", "debug")]);
        assert_eq!((outcome.code, outcome.err.as_str()), (Some(0), ""), "{arguments:?}");
        assert!(outcome.out.contains("\nExamples:\n") && !outcome.out.contains("hunter2"), "{}", outcome.out);
        let wide = outcome.out.lines().find(|line| line.chars().count() > 100);
        assert_eq!(wide, None, "{arguments:?}");
    }
}

/// Runs a line of the help in a shell with the program in its PATH.
fn shell(line: &str, folder: &std::path::Path) -> crate::support::process::Outcome {
    let mut command = Command::new("sh");
    let line = format!("PASSWORD=s3cret; sluicegate() {{ \"$BINARY\" \"$@\"; }}; {line}");
    in_clean_environment(command.args(["-c", &line]).current_dir(folder)).env("BINARY", BINARY);
    run(command, b"s3cret\n")
}

#[test]
fn examples_that_need_no_gateway_do_what_they_say() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    fs::write(path.join("gateway.toml"), "listen = '127.0.0.1:0'\nusers-file = 'users'\n[users.ann]\nrate = '1Gbit'\n")
        .unwrap();
    for (command, line, out) in [
        ("hash-password", "sluicegate hash-password ann >>users", ""),
        ("check", "sluicegate check --config gateway.toml", "The configuration is valid"),
        ("explain", "sluicegate explain --allow '10.0.0.0/8:*' 10.1.2.3:22", "permitted; would connect to 10.1.2.3:22"),
    ] {
        let help = sluicegate(&[command, "-h"], &[]).out;
        assert!(help.contains(&format!("\n  {line}\n")), "{command} {line}: {help}");
        let outcome = shell(line, path);
        assert!(outcome.code == Some(0) && outcome.out.contains(out), "{line}: {outcome:?}");
    }
    let line = "echo \"$PASSWORD\" | sluicegate hash-password ann --algorithm sha512-crypt >>users";
    assert!(sluicegate(&["hash-password", "-h"], &[]).out.contains(&format!("\n  {line}\n")));
    assert_eq!(shell(line, path).code, Some(0));
    let users = fs::read_to_string(path.join("users")).unwrap();
    assert!(users.starts_with("ann:$2") && users.contains("\nann:$6$"), "{users}");
}

#[test]
fn man_pages_are_written_and_completions_are_scripts() {
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("man1");
    let outcome = sluicegate(&["man", pages.to_str().unwrap()], &[]);
    assert_eq!((outcome.code, outcome.err.as_str()), (Some(0), ""), "{outcome:?}");
    let help = sluicegate(&["-h"], &[]).out;
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let commands = commands.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help");
    let commands: Vec<_> = commands.collect();
    assert!(commands.len() >= 11, "{help}");
    for command in &commands {
        assert!(pages.join(format!("sluicegate-{command}.1")).is_file(), "{command}");
    }
    if let Some(man) = program("man", "man-db") {
        let mut command = Command::new(man);
        command.args(["--warnings", "-l"]).arg(pages.join("sluicegate-serve.1")).env("MANWIDTH", "100");
        let outcome = run(command, b"");
        assert!(outcome.code == Some(0) && outcome.err.is_empty(), "{outcome:?}");
        assert!(outcome.out.contains("LIMITS AND RATES") && outcome.out.contains("EXAMPLES"), "{}", outcome.out);
    }
    let script = folder.path().join("completions");
    let outcome = sluicegate(&["completions", "bash"], &[]);
    assert_eq!((outcome.code, outcome.err.as_str()), (Some(0), ""), "{outcome:?}");
    fs::write(&script, outcome.out).unwrap();
    let mut command = Command::new("bash");
    let complete = "source \"$0\"; COMP_WORDS=(sluicegate serve --max-tunnels-per-); COMP_CWORD=2; \
                    _sluicegate sluicegate --max-tunnels-per- serve; printf '%s\\n' \"${COMPREPLY[@]}\"";
    command.args(["-c", complete]).arg(&script);
    let outcome = run(command, b"");
    let offered: Vec<_> = outcome.out.split_whitespace().collect();
    assert_eq!(offered, ["--max-tunnels-per-user", "--max-tunnels-per-source"], "{outcome:?}");
}
