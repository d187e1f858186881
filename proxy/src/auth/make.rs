//! Line for the users file: the counterpart of the parser in [`super::users_file`].

use sha_crypt::{Algorithm, Params, PasswordHasher, ShaCrypt};

use crate::secret::Secret;

use super::error::UsersError;
use super::names::{check_name, check_password};

/// Bytes of a password read by bcrypt.
const BCRYPT_READS: usize = 72;

/// Algorithm and cost of a password hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipe {
    /// bcrypt at this cost: each step doubles the work.
    Bcrypt(u32),
    /// SHA-512-crypt with this many rounds.
    Sha512Crypt(u32),
}

/// Makes the line `NAME:HASH`, without its end, with a new random salt.
///
/// # Errors
/// When the name or the password cannot be used, or not with this recipe.
pub fn make_line(name: &str, password: &Secret, recipe: Recipe) -> Result<String, UsersError> {
    check_name(name).map_err(|cause| UsersError::new("NAME", cause, "give another name"))?;
    if name.starts_with('#') {
        return Err(UsersError::new("NAME", "a line that begins with '#' is a comment", "give another name"));
    }
    check_password(password.expose()).map_err(|cause| password_error(cause, "give another password"))?;
    let hash = match recipe {
        Recipe::Bcrypt(cost) => bcrypt_hash(password.expose(), cost)?,
        Recipe::Sha512Crypt(rounds) => sha512_hash(password.expose(), rounds)?,
    };
    Ok(format!("{name}:{hash}"))
}

fn bcrypt_hash(password: &[u8], cost: u32) -> Result<String, UsersError> {
    if password.len() > BCRYPT_READS {
        let cause = format!("the password has {} bytes, but bcrypt uses only {BCRYPT_READS}", password.len());
        return Err(password_error(cause, "use --algorithm sha512-crypt or a shorter one"));
    }
    bcrypt::hash(password, cost).map_err(|error| password_error(error.to_string(), "see getrandom(2)"))
}

fn sha512_hash(password: &[u8], rounds: u32) -> Result<String, UsersError> {
    let failed = |cause: String| password_error(cause, "give at least 1000 rounds, and see getrandom(2)");
    let params = Params::new(rounds).map_err(|error| failed(error.to_string()))?;
    // 12 bytes are the 16 digits of salt in crypt(3).
    let mut salt = [0; 12];
    getrandom::fill(&mut salt).map_err(|error| failed(error.to_string()))?;
    let hash = ShaCrypt::new(Algorithm::Sha512Crypt, params).hash_password_with_salt(password, &salt);
    hash.map(|hash| hash.as_str().to_owned()).map_err(|error| failed(error.to_string()))
}

fn password_error(cause: impl Into<String>, remedy: &str) -> UsersError {
    UsersError::new("password", cause, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::users_file::parse_lines;
    use std::path::Path;

    #[test]
    fn lines_are_read_back() {
        for recipe in [Recipe::Bcrypt(4), Recipe::Sha512Crypt(1000)] {
            let password = Secret::new("s3cret:with:@/%ü");
            let line = make_line("ü b", &password, recipe).unwrap();
            let lines = parse_lines(Path::new("users"), line.as_bytes()).good;
            assert_eq!(&*lines[0].name, "ü b");
            assert!(lines[0].hash.matches(password.expose()));
            assert!(!lines[0].hash.matches(b"s3cret"));
            assert_ne!(line, make_line("ü b", &password, recipe).unwrap(), "the salt is new each time");
        }
    }

    #[test]
    fn sizes_that_bcrypt_reads_and_that_it_does_not() {
        let password = |length| Secret::new("p".repeat(length));
        assert!(make_line("a", &password(72), Recipe::Bcrypt(4)).is_ok());
        let error = make_line("a", &password(73), Recipe::Bcrypt(4)).unwrap_err().to_string();
        assert!(error.contains("73 bytes") && error.contains("--algorithm sha512-crypt"), "{error}");
        assert!(make_line("a", &password(73), Recipe::Sha512Crypt(1000)).is_ok());
    }

    #[test]
    fn refused_names_and_passwords() {
        let long = "p".repeat(513);
        for (name, password, cause) in [
            ("", "hunter2", "name is empty"),
            ("a:b", "hunter2", "':'"),
            ("a\nb", "hunter2", "control"),
            ("#a", "hunter2", "comment"),
            ("a", "", "password is empty"),
            ("a", "hunter2\0", "control"),
            ("a", "hunter2\x1b[A", "control"),
            ("a", &long, "longer than 512"),
        ] {
            let error = make_line(name, &Secret::new(password), Recipe::Bcrypt(4)).expect_err(cause).to_string();
            assert!(error.contains(cause) && !error.contains("hunter2"), "{error}");
        }
    }
}
