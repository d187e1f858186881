//! Names and passwords that a user may have.

/// The longest name, in bytes; htpasswd's limit as well.
const MAX_NAME: usize = 255;
/// The longest password, in bytes: the limit of `crypt(3)` (`CRYPT_MAX_PASSPHRASE_SIZE` of
/// libxcrypt), since the work of SHA-crypt grows with the length.
pub(super) const MAX_PASSWORD: usize = 512;

/// Removes one line end behind the text.
pub(super) fn without_line_end(text: &str) -> &str {
    text.strip_suffix('\n').map_or(text, |text| text.strip_suffix('\r').unwrap_or(text))
}

/// Checks a name; RFC 7617 (2) forbids colons and control characters.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("the name is empty".into());
    }
    if name.len() > MAX_NAME {
        return Err(format!("the name is longer than {MAX_NAME} bytes"));
    }
    if name.contains(|c: char| c == ':' || c.is_control()) {
        return Err("the name contains a ':' or a control character".into());
    }
    Ok(())
}

/// Checks a password.
pub(super) fn check_password(password: &[u8]) -> Result<(), String> {
    if password.is_empty() {
        return Err("the password is empty".into());
    }
    if password.len() > MAX_PASSWORD {
        return Err(format!("the password is longer than {MAX_PASSWORD} bytes"));
    }
    if password.iter().any(u8::is_ascii_control) {
        return Err(
            "the password contains a control character, which Basic authentication does not allow (RFC 7617)".into()
        );
    }
    Ok(())
}
