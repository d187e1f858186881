//! `sluicegate hash-password`: a line for the users file.

use std::io::{self, BufRead, IsTerminal};

use clap::{Args, ValueEnum};

use crate::auth::{Recipe, UsersError, make_line};
use crate::secret::Secret;

/// One hash takes about 0.2 s of one core of the machine of the first measurements.
const BCRYPT_COST: u32 = 12;
const SHA512_ROUNDS: u32 = 500_000;
/// Longer than any permitted password, so a longer one is refused rather than cut.
const MAX_LINE: u64 = 4096;

/// The options of `hash-password`.
#[derive(Args, Debug)]
pub struct HashPassword {
    /// Name of the user
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Password hash: bcrypt or sha512-crypt
    ///
    /// bcrypt takes passwords of at most 72 bytes, sha512-crypt of any length.
    #[arg(long, value_enum, value_name = "HASH", default_value_t = Algorithm::Bcrypt, hide_possible_values = true)]
    pub algorithm: Algorithm,
}

/// The hashes that the gateway makes; it reads more kinds than these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Algorithm {
    /// For passwords of at most 72 bytes
    Bcrypt,
    /// For passwords of any length
    Sha512Crypt,
}

impl From<Algorithm> for Recipe {
    fn from(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Bcrypt => Self::Bcrypt(BCRYPT_COST),
            Algorithm::Sha512Crypt => Self::Sha512Crypt(SHA512_ROUNDS),
        }
    }
}

impl HashPassword {
    /// Reads the password, twice where it is typed unseen, and gives the line to be printed.
    ///
    /// # Errors
    /// When there is no password to be had, or it or the name cannot be used.
    pub fn run(&self) -> Result<String, UsersError> {
        let stdin = io::stdin();
        let password = if stdin.is_terminal() {
            ask_twice(|prompt| rpassword::prompt_password(prompt).map(Secret::new))?
        } else {
            read_line(stdin.lock())?
        };
        make_line(&self.name, &password, self.algorithm.into())
    }
}

/// Reads the first line, without its end; does not wait for later lines.
fn read_line(input: impl BufRead) -> Result<Secret, UsersError> {
    let mut line = Vec::new();
    input.take(MAX_LINE).read_until(b'\n', &mut line).map_err(|error| unread(&error))?;
    let line = line.strip_suffix(b"\n").unwrap_or(&line);
    Ok(Secret::new(line.strip_suffix(b"\r").unwrap_or(line)))
}

fn ask_twice(mut ask: impl FnMut(&str) -> io::Result<Secret>) -> Result<Secret, UsersError> {
    let password = ask("Password: ").map_err(|error| unread(&error))?;
    let again = ask("Again: ").map_err(|error| unread(&error))?;
    if password != again {
        return Err(UsersError::new("password", "the two passwords differ", "try again"));
    }
    Ok(password)
}

fn unread(error: &io::Error) -> UsersError {
    UsersError::new("password", format!("cannot be read: {error}"), "type it, or pass it on standard input")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        command: HashPassword,
    }

    #[test]
    fn options() {
        let parse = |args: &[&str]| Cli::try_parse_from(args).map(|cli| (cli.command.name, cli.command.algorithm));
        assert_eq!(parse(&["x", "alice"]).unwrap(), ("alice".to_owned(), Algorithm::Bcrypt));
        assert_eq!(parse(&["x", "alice", "--algorithm", "sha512-crypt"]).unwrap().1, Algorithm::Sha512Crypt);
        assert!(parse(&["x"]).is_err());
        assert!(parse(&["x", "alice", "--algorithm", "md5"]).is_err());
    }

    #[test]
    fn standard_input() {
        for (input, password) in
            [("pw\n", "pw"), ("pw\r\n", "pw"), ("pw", "pw"), (" p w \nmore\n", " p w "), ("\n", ""), ("", "")]
        {
            assert_eq!(read_line(input.as_bytes()).unwrap().expose(), password.as_bytes(), "{input:?}");
        }
        let endless = "p".repeat(10_000);
        let password = read_line(endless.as_bytes()).unwrap();
        assert!(make_line("a", &password, Recipe::Sha512Crypt(1000)).unwrap_err().to_string().contains("longer than"));
    }

    #[test]
    fn typed_passwords_have_to_agree() {
        let typed = |answers: [&str; 2]| {
            let mut answers = answers.into_iter();
            ask_twice(|_| answers.next().map(Secret::new).ok_or_else(|| io::ErrorKind::UnexpectedEof.into()))
        };
        assert_eq!(typed(["hunter1", "hunter1"]).unwrap().expose(), b"hunter1");
        let error = typed(["hunter1", "hunter2"]).unwrap_err().to_string();
        assert!(error.contains("differ") && !error.contains("hunter"), "{error}");
        assert!(ask_twice(|_| Err(io::ErrorKind::UnexpectedEof.into())).is_err());
    }
}
